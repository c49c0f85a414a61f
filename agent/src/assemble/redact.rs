//! Secrets in query strings.

use crate::resolve::percent::decode;

/// What a secret is replaced by (semantic conventions, `url.query`).
pub(crate) const REDACTED: &str = "REDACTED";

/// Keys whose values are secrets; matching is case-sensitive. The conventions list
/// the `X-Amz-` keys, `sig` and `X-Goog-Signature`; the first two are AWS's older
/// ones (signature version 2), which they listed until 2026 and which still work.
const SENSITIVE_KEYS: [&str; 7] = [
    "AWSAccessKeyId",
    "Signature",
    "X-Amz-Credential",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
    "X-Goog-Signature",
    "sig",
];

/// Appends a query to `out`, the values of sensitive keys replaced. Keys are kept.
pub(crate) fn push_query(out: &mut String, query: &str) {
    let mut rest = query;
    loop {
        let (pair, after) = match rest.split_once('&') {
            Some((pair, after)) => (pair, Some(after)),
            None => (rest, None),
        };
        match pair.split_once('=') {
            Some((key, _)) if is_sensitive(key) => {
                out.push_str(key);
                out.push('=');
                out.push_str(REDACTED);
            }
            _ => out.push_str(pair),
        }
        let Some(after) = after else { return };
        out.push('&');
        rest = after;
    }
}

/// Whether a key, percent-encoded or not, is in the list. Servers decode keys
/// before they look at them, so `s%69g` is as good as `sig`.
fn is_sensitive(key: &str) -> bool {
    if key.contains('%') {
        return decode(key).is_some_and(|key| SENSITIVE_KEYS.contains(&key.as_str()));
    }
    SENSITIVE_KEYS.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(query: &str) -> String {
        let mut out = String::new();
        push_query(&mut out, query);
        out
    }

    #[test]
    fn every_sensitive_key_loses_its_value_and_keeps_its_name() {
        for key in SENSITIVE_KEYS {
            assert_eq!(
                redacted(&format!("a=1&{key}=se=cret&b=2")),
                format!("a=1&{key}=REDACTED&b=2")
            );
            assert_eq!(redacted(&format!("{key}=")), format!("{key}=REDACTED"));
        }
    }

    #[test]
    fn keys_match_by_case_and_as_a_whole() {
        for query in ["Sig=1", "signature=1", "mysig=1", "sig", "sigs=1", "", "&&", "a=sig=1"] {
            assert_eq!(redacted(query), query);
        }
    }

    #[test]
    fn an_encoded_key_does_not_hide_its_value() {
        assert_eq!(redacted("s%69g=secret"), "s%69g=REDACTED");
        assert_eq!(redacted("s%zzg=kept"), "s%zzg=kept");
    }
}
