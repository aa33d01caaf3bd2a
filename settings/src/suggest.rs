//! The nearest known name.

/// The name of `known` nearest to `written`, when it is near enough to be a typo.
///
/// Near means at most a third of the longer name's letters edited (transposition counts once);
/// case, `-` and `_` don't count. Takes the first of equals, so the answer is stable.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |(distance, longer, _): &(usize, usize, &str)| distance * 3 <= *longer;
    closest(written, known)
        .filter(near)
        .map(|(_, _, name)| name)
}

/// The name of `known` nearest to `written`, however far, and whether it is near enough to be what
/// was meant; `None` where nothing is known.
pub(crate) fn nearest_of_all<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<(&'a str, bool)> {
    let (distance, longer, name) = closest(written, known)?;
    Some((name, distance * 3 <= longer))
}

/// Distance, length of the longer name, and the name.
fn closest<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<(usize, usize, &'a str)> {
    // Bounds the quadratic distance whatever a file holds.
    let written: String = written.chars().take(128).collect();
    let plain = |name: &str| name.to_lowercase().replace(['-', '_'], "");
    let written = plain(&written);
    known
        .into_iter()
        .map(|name| {
            let other = plain(name);
            let longer = written.chars().count().max(other.chars().count());
            (strsim::damerau_levenshtein(&written, &other), longer, name)
        })
        .min_by_key(|(distance, _, _)| *distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_written_something_known_is_nearest() {
        let known = ["address", "tls_cert", "node_id"];
        let of = |written: &str| nearest_of_all(written, known);
        assert_eq!(of("tlsCrt"), Some(("tls_cert", true)));
        assert_eq!(of("certificate"), Some(("tls_cert", false)));
        for written in ["", "x", "\u{1f980}", &"q".repeat(1 << 20)] {
            assert!(of(written).is_some_and(|(_, near)| !near));
            assert_eq!(nearest(written, known), None);
        }
        assert_eq!(nearest_of_all("x", []), None);
    }
}
