//! Signatures for clusters that ask who we are: HMAC-SHA1 with the secret key, as both protocols want it.

use crate::config::Credentials;
use crate::frame::Fields;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderValue};
use std::time::{SystemTime, UNIX_EPOCH};

/// Signs a question of the remoting protocol: the fields' values in the order of their names, then the body.
pub(crate) fn question(credentials: &Credentials, fields: &mut Fields, body: &[u8]) {
    fields.insert("AccessKey", credentials.access_key.to_string());
    let mut signed = hmac::Context::with_key(&key(credentials));
    fields.values().for_each(|value| signed.update(value.as_bytes()));
    signed.update(body);
    fields.insert("Signature", STANDARD.encode(signed.sign()));
}

/// Signs a call of gRPC: the time, in the form that the call says it.
pub(crate) fn call(credentials: &Credentials, headers: &mut HeaderMap) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let time = written_time(now);
    let signature: String = hmac::sign(&key(credentials), time.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    let access_key = &credentials.access_key;
    let authorization = format!("MQv2-HMAC-SHA1 Credential={access_key}, SignedHeaders=x-mq-date-time, Signature={signature}");
    for (name, value) in [(http::HeaderName::from_static("x-mq-date-time"), time), (AUTHORIZATION, authorization)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

fn key(credentials: &Credentials) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, credentials.secret_key.as_bytes())
}

/// Seconds since 1970 as `20261124T130509Z`.
fn written_time(seconds: u64) -> String {
    // Civil from days, counted in years that begin in March: the leap day is their last.
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_by_the_calendar() {
        let check = |seconds, expected| assert_eq!(written_time(seconds), expected);
        check(0, "19700101T000000Z");
        check(951_782_399, "20000228T235959Z");
        check(951_782_400, "20000229T000000Z");
        check(1_795_525_509, "20261124T130509Z");
        check(4_107_542_399, "21000228T235959Z");
        check(4_107_542_400, "21000301T000000Z");
    }

    #[test]
    fn a_question_is_signed_over_its_fields_in_order_and_its_body() {
        let credentials = Credentials { access_key: "rocketmq2".into(), secret_key: "12345678".into() };
        let mut fields = Fields::from([("topic", "orders".to_owned()), ("queueId", "3".to_owned())]);
        question(&credentials, &mut fields, b"body");
        let signed = hmac::sign(&key(&credentials), b"rocketmq23ordersbody");
        assert_eq!(fields.get("Signature"), Some(&STANDARD.encode(signed)));
    }
}
