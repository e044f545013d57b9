//! Amounts as people write them: `5s`, `10MiB`, `20%`. A number that needs a unit and has none is refused.

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// A span of time: `250us`, `50ms`, `5s`, `2m`, `1h`, `1d`; fractions such as `1.5s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

/// A number of bytes: `512B`, `64KiB`, `10MiB`, `1GiB`, also `KB`, `MB`, `GB` (powers of ten), or the bare number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A share: `20%`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(pub f64);

/// So many in a time: `100/s`, `1000/m`, `10/30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerTime {
    /// How many; at least 1.
    pub count: u32,
    /// In what time; 1 ms to 1 day.
    pub per: Duration,
}

/// A whole number, or what was written in its place. It is refused where it is checked, because only there it is known
/// from what to what it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole(pub Result<u64, Box<str>>);

trait Amount: Sized {
    const EXPECTED: &'static str;
    const HINT: &'static str;
    /// Units as people write them, in lower case, and what they most likely meant.
    const SLIPS: &'static [(&'static [&'static str], &'static str)];
    fn parse(text: &str) -> Option<Self>;
}

impl Amount for Time {
    const EXPECTED: &'static str = "a time";
    const HINT: &'static str = "write a number and one of us, ms, s, m, h, d: `5s`, `250ms`";
    const SLIPS: &'static [(&'static [&'static str], &'static str)] = &[
        (&["", "s", "sec", "secs", "second", "seconds"], "s"),
        (&["ms", "msec", "msecs", "milli", "millis", "millisecond", "milliseconds"], "ms"),
        (&["m", "min", "mins", "minute", "minutes"], "m"),
        (&["h", "hr", "hrs", "hour", "hours"], "h"),
        (&["d", "day", "days"], "d"),
        (&["us", "\u{b5}s", "\u{3bc}s", "micros", "microseconds"], "us"),
    ];

    fn parse(text: &str) -> Option<Time> {
        let (number, unit) = split(text)?;
        let nanos = match unit {
            "us" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "d" => 86400e9,
            _ => return None,
        };
        let nanos = number * nanos;
        // Beyond a century it is a slip, and the sum with the present time must not overflow.
        (nanos <= 3.2e18).then(|| Time(Duration::from_nanos(nanos.round() as u64)))
    }
}

impl Amount for Size {
    const EXPECTED: &'static str = "a number of bytes";
    const HINT: &'static str = "write a number and one of B, KiB, MiB, GiB: `64KiB`, `10MiB`";
    const SLIPS: &'static [(&'static [&'static str], &'static str)] = &[
        (&["b", "byte", "bytes"], "B"),
        (&["k", "kb", "kib", "ki", "kbyte", "kbytes"], "KiB"),
        (&["m", "mb", "mib", "mi", "mbyte", "mbytes"], "MiB"),
        (&["g", "gb", "gib", "gi", "gbyte", "gbytes"], "GiB"),
    ];

    fn parse(text: &str) -> Option<Size> {
        let (number, unit) = split(text)?;
        let factor = match unit {
            "" | "B" => 1.0,
            "KiB" => 1024.0,
            "MiB" => 1024.0 * 1024.0,
            "GiB" => 1024.0 * 1024.0 * 1024.0,
            "KB" | "kB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            _ => return None,
        };
        let bytes = number * factor;
        (bytes <= 1e15 && bytes.fract() == 0.0).then_some(Size(bytes as u64))
    }
}

impl Amount for Percent {
    const EXPECTED: &'static str = "a percentage";
    const HINT: &'static str = "write it with its sign: `20%`";
    const SLIPS: &'static [(&'static [&'static str], &'static str)] = &[(&["", "percent", "pct", "per cent"], "%")];

    fn parse(text: &str) -> Option<Percent> {
        match split(text)? {
            (number, "%") => Some(Percent(number)),
            _ => None,
        }
    }
}

impl Amount for PerTime {
    const EXPECTED: &'static str = "a rate";
    const HINT: &'static str = "write a number from 1 to 1000000 and a time: `100/s`, `1000/m`, `10/30s`";
    const SLIPS: &'static [(&'static [&'static str], &'static str)] =
        &[(&["", "rps", "/sec", "/second", "per second", "per sec"], "/s"), (&["rpm", "/min", "/minute", "per minute"], "/m")];

    fn parse(text: &str) -> Option<PerTime> {
        let (count, per) = text.split_once('/')?;
        let count = count.trim().parse().ok().filter(|count| (1..=1_000_000).contains(count))?;
        let per = per.trim();
        // `/s` is short for `/1s`.
        let Time(per) = Time::parse(per).or_else(|| Time::parse(&format!("1{per}")))?;
        let fits = (Duration::from_millis(1)..=Duration::from_secs(24 * 3600)).contains(&per);
        fits.then_some(PerTime { count, per })
    }
}

/// A plain decimal number and what stands behind it.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

/// The same number with the unit that was most likely meant, if that makes it an amount.
fn meant<A: Amount>(text: &str) -> Option<String> {
    let (_, unit) = split(text)?;
    let number = text.trim().strip_suffix(unit)?.trim_end();
    let lower = unit.to_lowercase();
    let (_, right) = A::SLIPS.iter().find(|(slips, _)| slips.contains(&lower.as_str()))?;
    let meant = format!("{number}{right}");
    A::parse(&meant).map(|_| meant)
}

fn take<'de, A: Amount, D: Deserializer<'de>>(from: D) -> Result<A, D::Error> {
    struct Take<A>(PhantomData<A>);
    impl<A: Amount> Visitor<'_> for Take<A> {
        type Value = A;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(A::EXPECTED)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<A, E> {
            A::parse(text).ok_or_else(|| match meant::<A>(text) {
                Some(meant) => E::custom(format_args!("`{text}` is not {}\nhint: did you mean `{meant}`? {}", A::EXPECTED, A::HINT)),
                None => E::custom(format_args!("`{text}` is not {}\nhint: {}", A::EXPECTED, A::HINT)),
            })
        }
    }
    from.deserialize_str(Take(PhantomData))
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Time, D::Error> {
        take(from)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Size, D::Error> {
        take(from)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Percent, D::Error> {
        take(from)
    }
}

impl<'de> Deserialize<'de> for PerTime {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<PerTime, D::Error> {
        take(from)
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Whole, D::Error> {
        struct Take;
        impl Visitor<'_> for Take {
            type Value = Whole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Whole, E> {
                Ok(Whole(Ok(number)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Whole, E> {
                Ok(Whole(Err(text.chars().take(60).collect::<String>().into())))
            }
        }
        from.deserialize_u64(Take)
    }
}

impl Whole {
    /// The number, if it is one between these.
    pub(crate) fn within(&self, least: u64, most: u64) -> Option<u64> {
        self.0.as_ref().ok().copied().filter(|number| (least..=most).contains(number))
    }
}

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(number) => number.fmt(f),
            Err(text) => write!(f, "`{text}`"),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        for (unit, name) in
            [(86_400_000_000_000, "d"), (3_600_000_000_000, "h"), (60_000_000_000, "m"), (1_000_000_000, "s"), (1_000_000, "ms")]
        {
            if nanos >= unit && nanos.is_multiple_of(unit) {
                return write!(f, "{}{name}", nanos / unit);
            }
        }
        write!(f, "{}us", nanos / 1000)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
            if self.0 >= unit && self.0.is_multiple_of(unit) {
                return write!(f, "{}{name}", self.0 / unit);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_with_their_units_and_written_back() {
        for (text, micros) in [("250us", 250), ("5ms", 5_000), ("1.5s", 1_500_000), ("2m", 120_000_000), ("1h", 3_600_000_000), ("0s", 0)] {
            assert_eq!(Time::parse(text).unwrap().0.as_micros(), micros, "{text}");
        }
        for bad in ["", "5", "s", "5 sec", "-1s", "1e3s", "5S", "99999999d", "1.2.3s"] {
            assert_eq!(Time::parse(bad), None, "{bad}");
        }
        for (text, bytes) in [("0", 0), ("512", 512), ("512B", 512), ("64KiB", 65536), ("1.5 KiB", 1536), ("10MB", 10_000_000)] {
            assert_eq!(Size::parse(text), Some(Size(bytes)), "{text}");
        }
        for bad in ["", "-1", "1.5B", "10mb", "KiB", "9999999GiB"] {
            assert_eq!(Size::parse(bad), None, "{bad}");
        }
        assert_eq!(Percent::parse("20%"), Some(Percent(20.0)));
        assert_eq!(Percent::parse("20"), None);
        for (text, count, millis) in [("100/s", 100, 1000), ("1000/m", 1000, 60_000), ("10 / 30s", 10, 30_000), ("5/1h", 5, 3_600_000)] {
            assert_eq!(PerTime::parse(text), Some(PerTime { count, per: Duration::from_millis(millis) }), "{text}");
        }
        for bad in ["100", "0/s", "1.5/s", "-1/s", "10/", "10/2d", "10/us", "2000000/s", "/s"] {
            assert_eq!(PerTime::parse(bad), None, "{bad}");
        }
        for text in ["1d", "5s", "250ms", "3us", "90s"] {
            assert_eq!(Time::parse(text).unwrap().to_string(), text);
        }
        assert_eq!((Size(10 << 20).to_string(), Size(1000).to_string()), ("10MiB".into(), "1000B".into()));
    }
}
