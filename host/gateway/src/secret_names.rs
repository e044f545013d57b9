//! Is this the name of a secret? One list of words for query arguments, header fields, fields of bodies and settings of
//! plugins, found in a name by its parts, in any spelling: `apiKey`, `API_KEY`, `x-api-key-2`. Pure.
//!
//! Who asks may know more names than these, and knows what stands under them; here is only what everybody takes for a secret.

/// What a name says of the value under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    /// Nothing that matters.
    Nothing,
    /// It is a secret.
    Secret,
    /// There are several of them, or it is said how many: `tokens`.
    Several,
}

impl Says {
    /// Is this value hidden? How many there are is none.
    pub(crate) fn hides(self, value_is_number: bool) -> bool {
        match self {
            Says::Nothing => false,
            Says::Secret => true,
            Says::Several => !value_is_number,
        }
    }
}

/// A secret is called so: one word, or several in whatever way they are joined.
const WORDS: &str = "accesscode accesskey accountkey apikey assertion auth authcode authentication authkey authorization bearer cardno cardnumber ccnumber codeverifier \
     connectionstring cookie cred credential creds creditcard csrf cvc cvv dbpass encryptionkey jwt licensekey masterkey mfacode newpass oldpass otp \
     pass passcode passphrase passwd password pin privatekey psk pswd pw pwd recoverycode samlresponse secret secretkey securitycode session sessionkey \
     sessid sessionid sharedkey sid sig signature signingkey sshkey subscriptionkey token totp userpass verificationcode xsrf";

/// Those that are found behind others in one word as well: `userpassword`, `csrfmiddlewaretoken`.
const WITHIN: [&str; 12] =
    ["accesskey", "apikey", "credential", "passphrase", "passwd", "password", "pwd", "secret", "sessid", "sessionid", "signature", "token"];

/// These are found before others in one word, too: `passwordhash`, `newpasswordrepeat`.
const ANYWHERE: [&str; 4] = ["credential", "passphrase", "passwd", "password"];

/// What ends with one of these tells how much, when or which of a secret, and is none: `token_type`, `passwordMinLength`.
const ABOUT: &str = "age alg algorithm at bytes count counts date details duration enabled expiration expired expires expiresin expiry len length \
     limit max min ms name names policy remaining required seconds size status total ttl type used version";

/// The words that end with each letter, and whether they are found within one.
type Ends = [Vec<(&'static [u8], bool)>; 26];

static ENDS: std::sync::LazyLock<Ends> = std::sync::LazyLock::new(|| {
    let mut ends: Ends = Default::default();
    for word in WORDS.split_ascii_whitespace() {
        if let Some(list) = word.bytes().last().and_then(place).and_then(|at| ends.get_mut(at)) {
            list.push((word.as_bytes(), WITHIN.contains(&word)));
        }
    }
    ends
});

fn place(letter: u8) -> Option<usize> {
    let letter = letter.to_ascii_lowercase();
    letter.is_ascii_lowercase().then(|| usize::from(letter - b'a'))
}

/// What a name says.
pub(crate) fn says(name: &[u8]) -> Says {
    let mut found = Says::Nothing;
    let mut last = 0;
    for end in 1..=name.len() {
        if !is_end(name, end) {
            continue;
        }
        last = end;
        let Some(part) = name.get(..end) else { break };
        if ends_with_word(part) {
            found = Says::Secret;
        } else if found == Says::Nothing
            && let Some((b's' | b'S', singular)) = part.split_last()
            && ends_with_word(singular)
        {
            found = Says::Several;
        }
    }
    if found == Says::Nothing && ANYWHERE.iter().any(|word| holds(name, word.as_bytes())) {
        found = Says::Secret;
    }
    if found != Says::Nothing && ends_with_any(name.get(..last).unwrap_or_default(), ABOUT.split_ascii_whitespace()) {
        return Says::Nothing;
    }
    found
}

/// Is one of these words the last part of a name?
pub(crate) fn ends_with_any<'w>(name: &[u8], words: impl IntoIterator<Item = &'w str>) -> bool {
    words.into_iter().any(|word| ends_with(name, word.as_bytes(), false))
}

/// The same of a name as text.
pub(crate) fn is_secret(name: &str) -> bool {
    says(name.as_bytes()) != Says::Nothing
}

/// Are these the same name, whatever joins its parts and whatever their case?
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    let plain = |text: &'_ str| text.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase).collect::<Vec<char>>();
    one.eq_ignore_ascii_case(other) || plain(one) == plain(other)
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte >= 0x80
}

fn byte(name: &[u8], at: usize) -> u8 {
    name.get(at).copied().unwrap_or(b' ')
}

/// Does a part begin behind so many bytes? Behind what is no letter, where lower case turns to upper case, and before the last
/// capital of several (`APIKey`).
fn is_begin(name: &[u8], at: usize) -> bool {
    let here = byte(name, at);
    let Some(before) = at.checked_sub(1).map(|before| byte(name, before)) else { return true };
    is_letter(here)
        && (!is_letter(before) || (here.is_ascii_uppercase() && (!before.is_ascii_uppercase() || byte(name, at + 1).is_ascii_lowercase())))
}

fn is_end(name: &[u8], at: usize) -> bool {
    is_letter(byte(name, at - 1)) && (!is_letter(byte(name, at)) || is_begin(name, at))
}

fn holds(name: &[u8], word: &[u8]) -> bool {
    name.windows(word.len()).any(|some| some.eq_ignore_ascii_case(word))
}

fn ends_with_word(name: &[u8]) -> bool {
    let words = name.last().and_then(|&letter| place(letter)).and_then(|at| ENDS.get(at));
    words.into_iter().flatten().any(|(word, within)| ends_with(name, word, *within))
}

/// Are its last letters these, from the beginning of a part on, or `within` one?
fn ends_with(name: &[u8], word: &[u8], within: bool) -> bool {
    let mut left = word.iter().rev();
    let mut wanted = left.next();
    for at in (0..name.len()).rev() {
        let here = byte(name, at);
        // What joins parts, and numbers of them.
        if !is_letter(here) {
            continue;
        }
        if wanted.is_none_or(|&letter| letter != here.to_ascii_lowercase()) {
            return false;
        }
        wanted = left.next();
        if wanted.is_none() {
            return within || is_begin(name, at);
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "password|Password|PASSWORD|pAsSwOrD|userPassword|user_password|userpassword|password_confirmation|\
         new-password-2|newPassword1|passwd|pwd|db.pwd|pass|user_pass|passphrase|pass-phrase|Pass Word|passcode|apiKey|\
         api-key|API_KEY|APIKey|apikey|x-api-key-2|X-Api-Key|api[key]|my.api.key|stripeApiKey|token|access_token|\
         accessToken|accesstoken|ACCESS-TOKEN|idToken|refresh_token|csrfmiddlewaretoken|x-auth-token|x-csrf-token|\
         tokenValue|token2|2token|x[token][]|x-amz-security-token|jwt|userJWT|jwtString|secret|clientSecret|\
         client_secret|CLIENT_SECRET|secretKey|topsecret|private_key|privateKeyPem|AWSAccessKeyId|X-Amz-Signature|\
         X-Amz-Credential|credentials|signature|sig|session|sessionId|PHPSESSID|JSESSIONID|cookie|set-cookie|Cookie2|\
         authorization|proxy-authorization|Authorization|pin|pinCode|otp|totpCode|cvv|cvc2|card_number|cardNumber|\
         credit_card|xsrf|code_verifier|SAMLResponse|Ocp-Apim-Subscription-Key|client_assertion|auth_code|\
         connectionString|pw|auth|pswd|userpwd|oldpass|passwordconfirm|newpasswordrepeat|passwordhash|secretaccesskey|sid|\
         password_in|recovery_code";
    const SEVERAL: &str = "tokens|max_tokens|prompt_tokens|completionTokens|passwords|secrets|cookies|sessions|apiKeys";
    const NOTHING: &str = "-|42|name|user|key|keys|code|sort_key|public_key|postal_code|tokens_used|token_count|tokenType|token_type|\
         token_expires_in|expires_in|passwordMinLength|password_updated_at|secret_name|session_duration|cookie_name|\
         client_secret_expires_at|signature_algorithm|completion_tokens_details|compass|passenger|passed|bypass|spinning|\
         shipping|opinion|pinned|secretary|tokenizer|significant|design|obsession|monkey|turkey|hotpot|assigned|keyboard|\
         author|authority|x-request-id|content-type|sec-websocket-key|idempotency-key|etag|accept-encoding|cardinality|\
         \u{43f}\u{430}\u{440}\u{43e}\u{43b}\u{44c}";

    #[test]
    fn secrets_are_known_by_the_parts_of_their_names_in_any_spelling() {
        for (names, expected) in [(SECRET, Says::Secret), (SEVERAL, Says::Several), (NOTHING, Says::Nothing)] {
            for name in names.split('|') {
                // `credentials` is in the plural for everybody.
                let said = says(name.as_bytes());
                assert!(said == expected || (name == "credentials" && said == Says::Several), "{name}: {said:?}");
            }
        }
    }

    #[test]
    fn what_joins_the_parts_and_what_stands_around_them_changes_nothing() {
        for name in SECRET.split('|') {
            for joiner in [".", "__"] {
                let joined = name.replace(['-', '_', '.', ' '], joiner);
                for around in [format!("x_{joined}"), format!("{joined}_2"), format!("a[{joined}]"), format!(" {joined} ")] {
                    assert_ne!(says(around.as_bytes()), Says::Nothing, "{around}");
                }
            }
            if name.to_ascii_lowercase() == name {
                assert_ne!(says(name.to_ascii_uppercase().as_bytes()), Says::Nothing, "{}", name.to_ascii_uppercase());
            }
            assert_eq!(says(format!("{name}_count").as_bytes()), Says::Nothing, "{name}_count");
            assert_eq!(says(format!("{name}Type").as_bytes()), Says::Nothing, "{name}Type");
        }
    }

    #[test]
    fn a_number_under_a_plural_is_how_many() {
        assert!(Says::Several.hides(false) && !Says::Several.hides(true) && Says::Secret.hides(true) && !Says::Nothing.hides(false));
    }

    #[test]
    fn no_bytes_make_it_fall() {
        let mut seed = 7u64;
        for _ in 0..20_000 {
            let mut name = Vec::new();
            for _ in 0..seed % 13 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                name.push(b"tokenTOKENs-_[]1\xff\0"[(seed >> 33) as usize % 18]);
            }
            seed = seed.wrapping_add(1);
            let _ = says(&name);
        }
    }
}
