//! The nearest known word.
//!
//! In: what was written and what is known. Out: the known word a typing mistake away, or none: a far-fetched guess
//! misleads more than it helps.

use strsim::damerau_levenshtein;

/// The known word nearest to `written`, letter case aside; the first of equals.
pub(crate) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    let length = written.chars().count();
    if length == 0 || length > 64 {
        return None;
    }
    known
        .into_iter()
        .map(|word| (damerau_levenshtein(&written, &word.to_lowercase()), word))
        .filter(|&(distance, word)| {
            let longer = length.max(word.chars().count());
            distance <= (longer / 3).max(1) && distance < longer
        })
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    /// A guess is made for a slip of the fingers, not for another word.
    #[test]
    fn only_a_near_word_is_suggested() {
        let tables = ["clicks", "impressions"];
        assert_eq!(nearest("clik", tables), Some("clicks"));
        assert_eq!(nearest("CLICK", tables), Some("clicks"));
        assert_eq!(nearest("impresions", tables), Some("impressions"));
        assert_eq!(nearest("orders", tables), None);
        assert_eq!(nearest("SELEC", ["SELECT", "SHOW"]), Some("SELECT"));
        assert_eq!(nearest("TRIAN", ["TRAIN", "PREDICT"]), Some("TRAIN"));
        assert_eq!(nearest("x", ["y"]), None);
    }
}
