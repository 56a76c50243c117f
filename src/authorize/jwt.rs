//! JSON Web Tokens (RFC 7519), signed (RFC 7515). The algorithm is the configuration's, never the token's (RFC 8725 3.1).

use std::path::PathBuf;

use jsonwebtoken::{
    DecodingKey, Validation,
    errors::ErrorKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Authorize, Identity, Secret, Sources,
    credentials::{Challenge, default_realm},
    secret,
    watched::Watched,
};
use crate::{Rejection, Request};

/// Signed tokens. One of `secret`, `secret_file`, `key_file` and `jwks_file` is given; the files are read again when they
/// change. A token has to have `exp`; `nbf` is heeded where it is there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jwt {
    /// How tokens are signed.
    pub algorithm: Algorithm,
    /// The key of `HS256`; 32 bytes at least (RFC 7518 3.2).
    pub secret: Option<Secret>,
    /// A file with nothing but that.
    pub secret_file: Option<PathBuf>,
    /// A file with the public key, in PEM.
    pub key_file: Option<PathBuf>,
    /// A file with a set of keys (RFC 7517); a token says by `kid` which of them has signed it. One without is checked
    /// with the only key that the set has for the algorithm.
    pub jwks_file: Option<PathBuf>,
    /// Whose tokens are taken, by `iss`; if there are any, a token has to have one.
    pub issuers: Vec<String>,
    /// For whom a token may be, by `aud`; if there are any, a token has to have one. If there are none, a token with `aud`
    /// is somebody else's.
    pub audiences: Vec<String>,
    /// By how many seconds clocks may differ; 30.
    pub leeway_seconds: u64,
    /// The claim that is the subject's name; `sub`.
    pub subject: String,
    /// What the challenge calls this place.
    pub realm: String,
    /// Where a request may carry one.
    pub sources: Sources,
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Hs256,
            secret: None,
            secret_file: None,
            key_file: None,
            jwks_file: None,
            issuers: Vec::new(),
            audiences: Vec::new(),
            leeway_seconds: 30,
            subject: "sub".into(),
            realm: default_realm(),
            sources: Sources::default(),
        }
    }
}

/// How a token is signed (RFC 7518 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Algorithm {
    /// HMAC with SHA-256: who checks tokens could make them.
    #[default]
    #[serde(rename = "HS256")]
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA with P-256 and SHA-256.
    #[serde(rename = "ES256")]
    Es256,
}

impl Algorithm {
    fn name(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
        }
    }
}

pub(super) struct JwtTokens {
    keys: Keys,
    validation: Validation,
    subject: String,
    sources: Sources,
    challenge: Challenge,
}

enum Keys {
    One(DecodingKey),
    File(Watched<DecodingKey>),
    Set(Watched<Vec<Key>>),
}

struct Key {
    id: Option<String>,
    key: DecodingKey,
}

impl JwtTokens {
    pub(super) fn new(settings: &Jwt) -> Result<Self, String> {
        if settings.sources.is_empty() {
            return Err("there is no place to look for a token".into());
        }
        let mut validation = Validation::new(settings.algorithm.name());
        validation.leeway = settings.leeway_seconds;
        validation.validate_nbf = true;
        let mut required = vec!["exp"];
        if !settings.issuers.is_empty() {
            validation.set_issuer(&settings.issuers);
            required.push("iss");
        }
        if !settings.audiences.is_empty() {
            validation.set_audience(&settings.audiences);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        Ok(Self {
            keys: Keys::new(settings)?,
            validation,
            subject: settings.subject.clone(),
            sources: settings.sources.clone(),
            challenge: Challenge::new("Bearer", &settings.realm)?,
        })
    }

    fn read(&self, token: &str) -> Result<Map<String, Value>, Fault> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Fault::Invalid)?;
        // Nothing of what can be demanded there is understood here (RFC 7515 4.1.11).
        if header.crit.is_some() {
            return Err(Fault::Invalid);
        }
        let decode =
            |key: &DecodingKey| jsonwebtoken::decode::<Map<String, Value>>(token, key, &self.validation);
        let decoded = match &self.keys {
            Keys::One(key) => decode(key),
            Keys::File(file) => decode(&file.get()),
            Keys::Set(file) => {
                let set = file.get();
                let key = choose(&set, header.kid.as_deref()).ok_or(Fault::Invalid)?;
                decode(&key.key)
            }
        };
        match decoded {
            Ok(decoded) => Ok(decoded.claims),
            Err(error) if *error.kind() == ErrorKind::ExpiredSignature => Err(Fault::Expired),
            Err(error) => {
                // The kind alone: the token is not in it.
                tracing::debug!(kind = ?error.kind(), "a token is not accepted");
                Err(Fault::Invalid)
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Invalid,
    Expired,
}

/// The key called `id`; without a name the only one there is.
fn choose<'a>(keys: &'a [Key], id: Option<&str>) -> Option<&'a Key> {
    match (id, keys) {
        (Some(id), _) => keys.iter().find(|key| key.id.as_deref() == Some(id)),
        (None, [only]) => Some(only),
        (None, _) => None,
    }
}

impl Keys {
    fn new(settings: &Jwt) -> Result<Self, String> {
        let algorithm = settings.algorithm;
        let is_shared = algorithm == Algorithm::Hs256;
        match (&settings.secret, &settings.secret_file, &settings.key_file, &settings.jwks_file) {
            (Some(secret), None, None, None) if is_shared => shared(secret.expose()).map(Self::One),
            (None, Some(path), None, None) if is_shared => {
                // Read once here, so that a fault is told without its content.
                shared(secret::read(path)?.expose()).map_err(|what| format!("{}: {what}", path.display()))?;
                Watched::new(path, |text| shared(text.trim_end_matches(['\r', '\n']))).map(Self::File)
            }
            (None, None, Some(path), None) if !is_shared => {
                Watched::new(path, move |text| public(algorithm, text)).map(Self::File)
            }
            (None, None, None, Some(path)) => {
                Watched::new(path, move |text| set(algorithm, text)).map(Self::Set)
            }
            _ if is_shared => Err("HS256 needs one of `secret`, `secret_file` and `jwks_file`".into()),
            _ => Err("this algorithm needs one of `key_file` and `jwks_file`".into()),
        }
    }
}

fn shared(secret: &str) -> Result<DecodingKey, String> {
    if secret.len() < SECRET_MIN {
        return Err("the secret is shorter than 32 bytes (RFC 7518 3.2)".into());
    }
    Ok(DecodingKey::from_secret(secret.as_bytes()))
}

/// As long as the digest.
pub(super) const SECRET_MIN: usize = 32;

fn public(algorithm: Algorithm, pem: &str) -> Result<DecodingKey, String> {
    if pem.contains("PRIVATE KEY") {
        return Err("it has a private key; here belongs the public one".into());
    }
    let key = match algorithm {
        Algorithm::Rs256 => DecodingKey::from_rsa_pem(pem.as_bytes()),
        _ => DecodingKey::from_ec_pem(pem.as_bytes()),
    };
    key.map_err(|error| format!("it has no public key for this algorithm: {error}"))
}

/// The keys of a set that are for `algorithm`.
fn set(algorithm: Algorithm, text: &str) -> Result<Vec<Key>, String> {
    let set: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
    let keys = set["keys"].as_array().ok_or("it is no set of keys: it has no list `keys`")?;
    let usable = keys.iter().take(KEYS_MAX).filter_map(|key| {
        // One that is not understood is not ours (RFC 7517 5).
        let key: Jwk = serde_json::from_value(key.clone()).ok()?;
        if !is_for(algorithm, &key) {
            return None;
        }
        Some(Key { id: key.common.key_id.clone(), key: DecodingKey::from_jwk(&key).ok()? })
    });
    let usable: Vec<Key> = usable.collect();
    if usable.is_empty() { Err("it has no key for this algorithm".into()) } else { Ok(usable) }
}

const KEYS_MAX: usize = 100;

fn is_for(algorithm: Algorithm, key: &Jwk) -> bool {
    let is_of_its_kind = match (&key.algorithm, algorithm) {
        (AlgorithmParameters::RSA(_), Algorithm::Rs256) => true,
        (AlgorithmParameters::EllipticCurve(curve), Algorithm::Es256) => curve.curve == EllipticCurve::P256,
        (AlgorithmParameters::OctetKey(_), Algorithm::Hs256) => true,
        _ => false,
    };
    let says_so = match &key.common.key_algorithm {
        Some(own) => own.to_string() == algorithm.name_text(),
        None => true,
    };
    let is_to_sign = matches!(key.common.public_key_use, None | Some(PublicKeyUse::Signature));
    is_of_its_kind && says_so && is_to_sign
}

impl Algorithm {
    fn name_text(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }
}

impl Authorize for JwtTokens {
    async fn authorize(&self, request: &Request<'_>) -> Result<Identity, Rejection> {
        let token = self.sources.find(request).ok_or_else(|| self.challenge.missing())?;
        let claims =
            self.read(&token).map_err(|fault| self.challenge.invalid_token(fault == Fault::Expired))?;
        let identity = Identity::new("jwt");
        let identity = match claims.get(&self.subject).and_then(Value::as_str) {
            Some(subject) => identity.named(subject),
            None => identity,
        };
        Ok(identity.with_claims(claims))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        time::{SystemTime, UNIX_EPOCH},
    };

    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    use super::*;

    const SECRET: &str = "a-secret-of-thirty-two-bytes-or-more";

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    fn hs256(settings: impl FnOnce(&mut Jwt)) -> JwtTokens {
        let mut jwt = Jwt { secret: Some(SECRET.into()), ..Jwt::default() };
        settings(&mut jwt);
        JwtTokens::new(&jwt).unwrap()
    }

    fn signed(claims: &Value) -> String {
        encode(&Header::default(), claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
    }

    /// A token of any header, signed with the secret.
    fn forged(header: &Value, claims: &Value) -> String {
        use hmac::{Hmac, Mac};
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(signed.as_bytes());
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    #[test]
    fn times_are_heeded_with_some_leeway() {
        let tokens = hs256(|_| {});
        let now = now();
        for (claims, expected) in [
            (json!({ "exp": now + 60 }), None),
            (json!({ "exp": now - 20 }), None),
            (json!({ "exp": now - 40 }), Some(Fault::Expired)),
            (json!({ "exp": now + 60, "nbf": now + 20 }), None),
            (json!({ "exp": now + 60, "nbf": now + 40 }), Some(Fault::Invalid)),
            (json!({}), Some(Fault::Invalid)),
            (json!({ "exp": "never" }), Some(Fault::Invalid)),
            (json!({ "exp": null }), Some(Fault::Invalid)),
            (json!({ "exp": now + 60, "nbf": "tomorrow" }), Some(Fault::Invalid)),
            (json!({ "exp": now + 60, "aud": "another" }), Some(Fault::Invalid)),
        ] {
            assert_eq!(tokens.read(&signed(&claims)).err(), expected, "{claims}");
        }
    }

    #[test]
    fn it_is_from_whom_and_for_whom_it_has_to_be() {
        let tokens = hs256(|jwt| {
            jwt.issuers = vec!["https://id.example".into(), "https://old.example".into()];
            jwt.audiences = vec!["chat".into()];
        });
        let exp = now() + 60;
        for (claims, is_good) in [
            (json!({ "exp": exp, "iss": "https://id.example", "aud": "chat" }), true),
            (json!({ "exp": exp, "iss": "https://old.example", "aud": ["x", "chat"] }), true),
            (json!({ "exp": exp, "iss": "https://evil.example", "aud": "chat" }), false),
            (json!({ "exp": exp, "iss": "https://id.example", "aud": "shop" }), false),
            (json!({ "exp": exp, "aud": "chat" }), false),
            (json!({ "exp": exp, "iss": "https://id.example" }), false),
        ] {
            assert_eq!(tokens.read(&signed(&claims)).is_ok(), is_good, "{claims}");
        }
    }

    #[test]
    fn the_token_does_not_choose_how_it_is_checked() {
        let tokens = hs256(|_| {});
        let claims = json!({ "exp": now() + 60, "sub": "alice" });
        assert!(tokens.read(&forged(&json!({ "alg": "HS256" }), &claims)).is_ok());
        for header in [
            json!({ "alg": "none" }),
            json!({ "alg": "HS512" }),
            json!({ "alg": "RS256" }),
            json!({ "alg": "HS256", "crit": ["exp"] }),
            json!({}),
        ] {
            assert_eq!(tokens.read(&forged(&header, &claims)), Err(Fault::Invalid), "{header}");
        }
        let good = signed(&claims);
        let unsigned = format!("{}.", good.rsplit_once('.').unwrap().0);
        let mut changed = good.clone();
        changed.replace_range(
            good.len() - 5..good.len() - 4,
            if good.as_bytes()[good.len() - 5] == b'A' { "B" } else { "A" },
        );
        for token in [&unsigned, &changed, "", "a.b.c", "....", &good[1..]] {
            assert_eq!(tokens.read(token), Err(Fault::Invalid), "{token}");
        }
    }

    /// Made by openssl, for these tests only.
    const EC_PRIVATE: &str = include_str!("../../tests/keys/ec.private.pem");
    const EC_PUBLIC: &str = include_str!("../../tests/keys/ec.public.pem");
    const RSA_PRIVATE: &str = include_str!("../../tests/keys/rsa.private.pem");
    const RSA_PUBLIC: &str = include_str!("../../tests/keys/rsa.public.pem");

    fn file(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("switchpoint-jwt-{name}-{}", std::process::id()));
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_public_key_checks_what_the_private_one_has_signed_and_nothing_else() {
        let claims = json!({ "exp": now() + 60, "sub": "alice" });
        let rsa = encode(
            &Header::new(jsonwebtoken::Algorithm::RS256),
            &claims,
            &EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap(),
        );
        let ec = encode(
            &Header::new(jsonwebtoken::Algorithm::ES256),
            &claims,
            &EncodingKey::from_ec_pem(EC_PRIVATE.as_bytes()).unwrap(),
        );
        let (rsa, ec) = (rsa.unwrap(), ec.unwrap());
        for (algorithm, name, public, own, other) in
            [(Algorithm::Rs256, "rsa", RSA_PUBLIC, &rsa, &ec), (Algorithm::Es256, "ec", EC_PUBLIC, &ec, &rsa)]
        {
            let path = file(name, public);
            let tokens =
                JwtTokens::new(&Jwt { algorithm, key_file: Some(path.clone()), ..Jwt::default() }).unwrap();
            fs::remove_file(path).unwrap();
            assert_eq!(tokens.read(own).unwrap()["sub"], "alice");
            assert_eq!(tokens.read(other), Err(Fault::Invalid));
            assert_eq!(tokens.read(&signed(&claims)), Err(Fault::Invalid));
            // The public key is no secret: what is signed with it as if it were one is not believed.
            let confused = encode(&Header::default(), &claims, &EncodingKey::from_secret(public.as_bytes()));
            assert_eq!(tokens.read(&confused.unwrap()), Err(Fault::Invalid));
        }
    }

    #[test]
    fn of_a_set_the_key_is_taken_that_the_token_names() {
        let k = |secret: &str| BASE64_URL_SAFE_NO_PAD.encode(secret);
        let other = "another-secret-of-thirty-two-bytes";
        let two = json!({ "keys": [
            { "kty": "oct", "kid": "a", "alg": "HS256", "k": k(SECRET) },
            { "kty": "oct", "kid": "b", "k": k(other) },
            { "kty": "oct", "kid": "c", "alg": "HS512", "k": k(SECRET) },
            { "kty": "oct", "kid": "d", "use": "enc", "k": k(SECRET) },
            { "kty": "XYZ", "kid": "e" },
        ]});
        let path = file("set", &two.to_string());
        let tokens = JwtTokens::new(&Jwt { jwks_file: Some(path.clone()), ..Jwt::default() }).unwrap();
        let claims = json!({ "exp": now() + 60 });
        let named = |kid: &str| forged(&json!({ "alg": "HS256", "kid": kid }), &claims);
        assert!(tokens.read(&named("a")).is_ok());
        for kid in ["b", "c", "d", "e", "f", ""] {
            assert_eq!(tokens.read(&named(kid)), Err(Fault::Invalid), "{kid}");
        }
        assert_eq!(tokens.read(&signed(&claims)), Err(Fault::Invalid), "which of the two is not said");
        fs::write(&path, json!({ "keys": [{ "kty": "oct", "k": k(SECRET) }] }).to_string()).unwrap();
        let tokens = JwtTokens::new(&Jwt { jwks_file: Some(path.clone()), ..Jwt::default() }).unwrap();
        assert!(tokens.read(&signed(&claims)).is_ok(), "there is only one");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        let error = |jwt: Jwt| JwtTokens::new(&jwt).err().unwrap();
        assert!(error(Jwt::default()).contains("HS256 needs one of"));
        assert!(
            error(Jwt { secret: Some("short".into()), ..Jwt::default() }).contains("shorter than 32 bytes")
        );
        let rs256 = Jwt { algorithm: Algorithm::Rs256, ..Jwt::default() };
        assert!(
            error(Jwt { secret: Some(SECRET.into()), ..rs256.clone() }).contains("needs one of `key_file`")
        );
        for (text, what) in
            [(RSA_PRIVATE, "private key"), ("nonsense", "no public key"), (EC_PUBLIC, "no public key")]
        {
            let path = file("bad", text);
            let error = error(Jwt { key_file: Some(path.clone()), ..rs256.clone() });
            assert!(error.contains(what), "{error}");
            fs::remove_file(path).unwrap();
        }
        for text in ["{}", "[", "{\"keys\":[]}"] {
            let path = file("badset", text);
            assert!(
                JwtTokens::new(&Jwt { jwks_file: Some(path.clone()), ..Jwt::default() }).is_err(),
                "{text}"
            );
            fs::remove_file(path).unwrap();
        }
        let nowhere = Sources { authorization: false, ..Sources::default() };
        assert!(
            error(Jwt { secret: Some(SECRET.into()), sources: nowhere, ..Jwt::default() })
                .contains("no place")
        );
    }
}
