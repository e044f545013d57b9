//! The one date format that HTTP still writes (RFC 9110 section 5.6.7).

/// `Sun, 06 Nov 1994 08:49:37 GMT` for seconds since 1970. Right until the year 9999.
pub(crate) fn imf_fixdate(second: u64) -> [u8; 29] {
    let (days, time) = (second / 86_400, second % 86_400);
    // Days since 0000-03-01, so that the leap day is the last of a year (the well-known civil calendar algorithm).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let name = |names: &'static str, at: u64| names.get(at as usize * 3..at as usize * 3 + 3).unwrap_or("???");
    let text = format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        name("ThuFriSatSunMonTueWed", days % 7),
        name("JanFebMarAprMayJunJulAugSepOctNovDec", month - 1),
        time / 3600,
        time / 60 % 60,
        time % 60,
    );
    let mut out = [b' '; 29];
    for (to, from) in out.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::imf_fixdate;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (second, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_795_359_599, "Sun, 22 Nov 2026 14:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(std::str::from_utf8(&imf_fixdate(second)).unwrap(), text);
        }
    }
}
