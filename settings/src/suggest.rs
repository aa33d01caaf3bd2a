//! The nearest known name.

/// The name of `known` nearest to `written`, when it is near enough to be a typo.
///
/// Near means at most a third of the longer name's letters edited (transposition counts once);
/// case, `-` and `_` don't count. Takes the first of equals, so the answer is stable.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Bounds the quadratic distance whatever a file holds.
    if written.len() > 128 {
        return None;
    }
    let plain = |name: &str| name.to_lowercase().replace(['-', '_'], "");
    let written = plain(written);
    known
        .into_iter()
        .map(|name| {
            let other = plain(name);
            let longer = written.chars().count().max(other.chars().count());
            (strsim::damerau_levenshtein(&written, &other), longer, name)
        })
        .filter(|(distance, longer, _)| distance * 3 <= *longer)
        .min_by_key(|(distance, _, _)| *distance)
        .map(|(_, _, name)| name)
}
