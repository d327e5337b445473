//! How good predictions were, as words for the terminal and as JSON: log loss and AUC for yes or no, RMSE for numbers,
//! cross entropy and accuracy for classes.

use serde_json::{Value, json};
use tidemill_train::{GroupMetrics, Metrics, OTHERS, Summary};

/// `log loss 0.4112 (best possible 0.4080, +0.80%), AUC 0.7310`.
pub fn words(m: &Metrics) -> String {
    if let Some(r) = &m.regression {
        let best = r.best_rmse.map(|b| format!(" (best possible {b:.4})")).unwrap_or_default();
        return format!("RMSE {}{best}, MAE {}, R2 {}", short(r.rmse), short(r.mae), short(r.r2));
    }
    if let Some(classes) = &m.classes {
        return format!("cross entropy {}, accuracy {}", short(m.logloss), short(classes.accuracy));
    }
    let against = |b: f64| format!(" (best possible {b:.4}, {:+.2}%)", (m.logloss / b - 1.0) * 100.0);
    let best = m.best_logloss.map(against).unwrap_or_default();
    format!("log loss {}{best}, AUC {}", short(m.logloss), short(m.auc))
}

/// The figures that a task has, by name.
pub fn json(m: &Metrics) -> Value {
    let mut out = json!({"samples": m.samples});
    let mut put = |name: &str, value: Value| out[name] = value;
    match (&m.regression, &m.classes) {
        (Some(r), _) => {
            put("rmse", number(r.rmse));
            put("mae", number(r.mae));
            put("r2", number(r.r2));
            put("mean_label", number(m.mean_label));
            put("mean_prediction", number(m.mean_prediction));
            if let Some(best) = r.best_rmse {
                put("best_rmse", number(best));
            }
        }
        (None, classes) => {
            put("positives", m.positives.into());
            put("logloss", number(m.logloss));
            put("auc", number(m.auc));
            put("normalized_entropy", number(m.normalized_entropy));
            if let Some(best) = m.best_logloss {
                put("best_logloss", number(best));
            }
            if let Some(classes) = classes {
                put("accuracy", number(classes.accuracy));
            }
        }
    }
    out
}

/// Calibration by tenths of the predicted probability.
pub fn calibration(m: &Metrics) -> Value {
    let deciles = m.calibration.iter();
    deciles
        .map(|d| json!({"count": d.count, "mean_p": number(d.mean_prediction), "mean_label": number(d.mean_label)}))
        .collect()
}

/// Figures by group, with the groups' names by number from 1.
pub fn groups(groups: &[GroupMetrics], names: &[String]) -> Value {
    let one = |g: &GroupMetrics| {
        let name = match g.group {
            OTHERS => "(others)",
            n => names.get(n as usize - 1).map_or("?", String::as_str),
        };
        json!({
            "value": name, "samples": g.samples, "mean_label": number(g.mean_label),
            "mean_prediction": number(g.mean_prediction), "loss": number(g.loss), "calibration": number(g.calibration),
        })
    };
    groups.iter().map(one).collect()
}

/// What a person should hear of the labels: that they are all the same.
pub fn one_class(s: &Summary) -> Option<String> {
    let (label, samples) = s.one_class?;
    Some(format!("only label {label} in the last {samples} samples"))
}

/// Six digits are what these figures carry; a figure that is not there yet is null.
pub fn number(x: f64) -> Value {
    if x.is_finite() { ((x * 1e6).round() / 1e6).into() } else { Value::Null }
}

fn short(x: f64) -> String {
    if x.is_finite() { format!("{x:.4}") } else { "-".into() }
}
