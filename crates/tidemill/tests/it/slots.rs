//! Settings by slot, through the program: learned, gone on with, derived again; and refused where they stand.

use std::process::Output;

use tidemill_base::Rng;

use super::support::{Scratch, last_json, run, tidemill};

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn program(scratch: &Scratch, learner: &str, with: &str) -> String {
    let mut rng = Rng::seeded(5);
    let row = |rng: &mut Rng| {
        let (user, item) = (rng.below(2_000), rng.below(40));
        let clicked = rng.next_f64() < if (user ^ item) % 3 == 0 { 0.6 } else { 0.2 };
        format!("{{\"user\": \"u{user}\", \"item\": \"i{item}\", \"clicked\": {clicked}}}\n")
    };
    let rows: String = (0..4_000).map(|_| row(&mut rng)).collect();
    let path = scratch.write("rows.jsonl", &rows);
    format!(
        "CREATE SOURCE rows (user STRING, item STRING, clicked BOOLEAN) WITH (connector = 'file', path = '{}');
         SELECT * FROM rows TO TRAIN {learner} WITH {with} COLUMN user, item, CROSS([user, item], 4096) LABEL clicked INTO ctr;",
        path.display()
    )
}

/// Every learner: the same bits on any number of threads, and `models verify` derives them from the journal.
#[test]
fn slots_with_settings_of_their_own_are_learned_and_derived_again() {
    let scratch = Scratch::new("slots");
    let with = "model.alpha = '0.1; user=0.02', model.optimizer = 'ftrl; item=adagrad', model.layers = '8',
                train.admit_after = 'user=2', train.entries_max = 'user*item%4096=512', train.forget_after = 'user=1000',
                train.when_full = 'user*item%4096=evict', model.l1 = '0; bias=0.1', publish.every = 1500";
    for learner in ["FTRLClassifier", "FMClassifier", "DeepFMClassifier"] {
        let sql = program(&scratch, learner, with);
        let mut states = Vec::new();
        for threads in ["1", "2", "8"] {
            let data = scratch.path(&format!("{learner}-{threads}"));
            let out = run(&sql, &data, &["--threads", threads]);
            assert!(out.status.success(), "{}", text(&out));
            states.push(last_json(&out)["state_hash"].clone());
            let out = tidemill().args(["models", "verify", "ctr@2", "--data-dir"]).arg(&data).output().unwrap();
            assert!(text(&out).contains("verified"), "{}", text(&out));
        }
        assert!(states[0].is_string() && states.iter().all(|state| *state == states[0]), "{learner}: {states:?}");
        // Another value for a slot is another program.
        let other = program(&scratch, learner, &with.replace("user=0.02", "user=0.03"));
        let out = run(&other, &scratch.path(&format!("{learner}-1")), &[]);
        assert!(!out.status.success() && text(&out).contains("another program"), "{}", text(&out));
    }
}

#[test]
fn what_slots_cannot_have_is_refused_where_it_stands() {
    let scratch = Scratch::new("slots-refused");
    for (learner, with, why) in [
        ("FMClassifier", "model.alpha = '0.1; usr=0.02'", "model.alpha: no slot 'usr' in COLUMN"),
        ("FMClassifier", "model.alpha = '0.1; usr=0.02'", "did you mean 'user'?"),
        ("FMClassifier", "model.alpha = '0.1; country=0.02'", "slots: user, item, user*item%4096, bias"),
        ("FMClassifier", "model.alpha = '0.1; user=-1'", "slot 'user': model.alpha must be in"),
        ("FMClassifier", "train.batch_size = '64; user=8'", "train.batch_size cannot differ by slot"),
        ("FFMClassifier", "model.factors = '4; user=8'", "cannot have a dimension of its own in FFM"),
        ("FTRLClassifier", "publish.prune = 'user=0.1'", "do not keep their slot"),
    ] {
        let out = run(&program(&scratch, learner, with), &scratch.path("data"), &[]);
        assert_eq!(out.status.code(), Some(2), "{with}: {}", text(&out));
        assert!(text(&out).contains(why), "{with}: {}", text(&out));
    }
}
