//! Signs requests as the [Standard Webhooks specification](https://www.standardwebhooks.com) says, so that a service can
//! tell a call of ours from anybody else's with a library that exists for its language.
//!
//! What is signed is `{webhook-id}.{webhook-timestamp}.{body}`, with HMAC-SHA256; the signature is `v1,` and base64.
//! With several secrets there are as many signatures, so that a secret can be replaced without a gap.

use std::fmt;

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What a secret begins with when it is written down.
pub const SECRET_PREFIX: &str = "whsec_";

/// The lengths of a secret that the specification allows, in bytes.
pub const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Reads base64 with and without padding, as the reference libraries do.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A key to sign with. Shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Reads `whsec_` and base64. `None` for anything else, and for keys of another length than the specification allows.
    pub fn parse(text: &str) -> Option<Secret> {
        let key = BASE64.decode(text.strip_prefix(SECRET_PREFIX)?).ok()?;
        SECRET_BYTES.contains(&key.len()).then_some(Secret(key))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// The value of `webhook-signature`: a signature with each of `secrets`, separated by spaces.
pub fn sign(secrets: &[Secret], id: &str, timestamp_secs: i64, body: &[u8]) -> String {
    let signatures = secrets.iter().map(|Secret(key)| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
        mac.update(format!("{id}.{timestamp_secs}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    });
    signatures.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    /// The example of the specification's reference libraries.
    #[test]
    fn a_known_message_has_its_known_signature() {
        let secret = Secret::parse(SECRET).unwrap();
        let signature = sign(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_secret_signs() {
        let old = Secret::parse(SECRET).unwrap();
        let new = Secret::parse(&format!("whsec_{}", STANDARD.encode([7; 32]))).unwrap();
        let both = sign(&[new.clone(), old.clone()], "id", 5, b"body");
        assert_eq!(both, format!("{} {}", sign(&[new], "id", 5, b"body"), sign(&[old], "id", 5, b"body")));
    }

    #[test]
    fn a_secret_is_of_a_legal_form_and_length() {
        assert!(Secret::parse(&format!("whsec_{}", STANDARD.encode([7; 25]))).is_some());
        assert!(Secret::parse(format!("whsec_{}", STANDARD.encode([7; 25])).trim_end_matches('=')).is_some());
        for wrong in ["", "whsec_", "secret", &SECRET[6..], "whsec_%%%", &format!("whsec_{}", STANDARD.encode([7; 23]))]
        {
            assert_eq!(Secret::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Secret::parse(&format!("whsec_{}", STANDARD.encode([7; 65]))), None);
        assert_eq!(format!("{:?}", Secret::parse(SECRET)), "Some(Secret(***))");
    }
}
