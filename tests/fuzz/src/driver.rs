//! The driver: makes inputs, runs a target on them, keeps what showed something new, and shrinks what broke it.
//!
//! Everything follows from the seed but the number of executions, which follows from the clock.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};
use std::{env, fs, io};

/// What is fuzzed.
#[derive(Clone, Copy)]
pub struct Target {
    /// Names its folder in the corpus.
    pub name: &'static str,
    /// Panics when a promise is broken. Never otherwise.
    pub run: fn(&[u8]),
    /// Makes an input with structure; mostly, but not always, a valid one.
    pub make: fn(&mut Random) -> Vec<u8>,
    /// Words worth inserting.
    pub words: &'static [&'static [u8]],
}

/// How long and from where.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Replays the same inputs.
    pub seed: u64,
    /// Time to spend.
    pub time: Duration,
    /// Executions to reach, if need be in a minute more: the machine may be busy.
    pub executions_min: u64,
}

impl Budget {
    /// `WHARF_FUZZ_SECONDS` (default 2: enough for the minimum on an idle machine) and `WHARF_FUZZ_SEED` (default 1).
    pub fn from_env() -> Budget {
        let number = |name: &str, default: u64| env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
        let seconds = number("WHARF_FUZZ_SECONDS", 2);
        Budget { seed: number("WHARF_FUZZ_SEED", 1), time: Duration::from_secs(seconds), executions_min: 200_000 }
    }
}

/// What came out.
#[derive(Debug)]
pub struct Report {
    /// Inputs run.
    pub executions: u64,
    /// Time it took.
    pub took: Duration,
    /// Different things that the target noted.
    pub shapes: usize,
    /// The first input that broke the target.
    pub failure: Option<Failure>,
}

/// An input that breaks the target.
#[derive(Debug)]
pub struct Failure {
    /// The input, shrunk.
    pub input: Vec<u8>,
    /// What the target said.
    pub message: String,
}

thread_local! {
    static SHAPE: Cell<u64> = const { Cell::new(0) };
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Says that the target came by here with this. An input that brings a new combination is kept for mutation.
pub fn note(what: &str) {
    let mut hash = SHAPE.get() ^ 0xcbf2_9ce4_8422_2325;
    for &byte in what.as_bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    SHAPE.set(hash);
}

/// Runs a target until its budget is spent or it breaks. The corpus comes first, as it stands.
pub fn fuzz(target: &Target, corpus: Vec<Vec<u8>>, budget: &Budget) -> Report {
    let begun = Instant::now();
    let mut random = Random(budget.seed);
    let mut shapes = HashSet::new();
    let mut executions = 0;
    let mut pool: Vec<Vec<u8>> = Vec::new();
    let mut waiting = corpus.into_iter();
    loop {
        // The clock is looked at now and then: it costs as much as a short input.
        if executions % 64 == 0 {
            let took = begun.elapsed();
            if took >= budget.time && (executions >= budget.executions_min || took >= budget.time + PATIENCE) && waiting.len() == 0 {
                return Report { executions, took, shapes: shapes.len(), failure: None };
            }
        }
        let input = waiting.next().unwrap_or_else(|| next_input(target, &pool, &mut random));
        executions += 1;
        if let Err(message) = run(target, &input) {
            let input = shrink(target, input);
            return Report { executions, took: begun.elapsed(), shapes: shapes.len(), failure: Some(Failure { input, message }) };
        }
        if shapes.len() < SHAPES_MAX && shapes.insert(SHAPE.get()) {
            if pool.len() < POOL_MAX {
                pool.push(input);
            } else {
                let at = random.below(pool.len());
                if let Some(slot) = pool.get_mut(at) {
                    *slot = input;
                }
            }
        }
    }
}

/// How much longer to go on for the sake of `executions_min`.
const PATIENCE: Duration = Duration::from_secs(60);
/// Different shapes remembered.
const SHAPES_MAX: usize = 1 << 20;
/// Inputs kept for mutation.
const POOL_MAX: usize = 8192;
/// Longest input, bytes.
const INPUT_MAX: usize = 2048;

/// The committed inputs of a target.
///
/// # Errors
/// The folder is missing or unreadable.
pub fn corpus(folder: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    // The order of a directory is nobody's promise, and the seed is to mean the same everywhere.
    files.sort();
    // A folder beside the files holds what one of them includes: an input is one text.
    let texts = files.into_iter().filter(|path| path.is_file() && path.extension().is_none_or(|kind| kind != "md" && kind != "expect"));
    texts.map(fs::read).collect()
}

/// Runs a target as a test does: prints what it did, saves an input that breaks it, and says how to go on.
///
/// # Errors
/// In words: what broke, and where the input is.
pub fn check(target: &Target, corpus: Vec<Vec<u8>>, failures: &Path, budget: &Budget) -> Result<String, String> {
    let name = target.name;
    let seeds = corpus.len();
    let report = fuzz(target, corpus, budget);
    let line = format!(
        "fuzz {name}: {} executions in {:.1} s from {seeds} committed inputs, {} shapes, seed {}",
        report.executions,
        report.took.as_secs_f64(),
        report.shapes,
        budget.seed
    );
    if let Some(failure) = report.failure {
        let saved = save(failures, name, &failure.input).map_or_else(|error| error.to_string(), |path| path.display().to_string());
        return Err(format!(
            "{line}\n{}\ninput: {:?}\nsaved: {saved}\nhint: copy it to the corpus once it is mended",
            failure.message,
            String::from_utf8_lossy(&failure.input)
        ));
    }
    if report.executions < budget.executions_min {
        return Err(format!("{line}\nfewer than {} executions; hint: raise WHARF_FUZZ_SECONDS", budget.executions_min));
    }
    Ok(line)
}

fn save(folder: &Path, name: &str, input: &[u8]) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let path = folder.join(format!("{name}-{hash:016x}"));
    fs::write(&path, input)?;
    Ok(path)
}

/// One execution. A panic becomes its message and is not printed: there may be thousands while an input is shrunk.
fn run(target: &Target, input: &[u8]) -> Result<(), String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                let mut message = String::new();
                let _ = write!(message, "{info}");
                MESSAGE.replace(message);
            } else {
                before(info);
            }
        }));
    });
    SHAPE.set(0);
    QUIET.set(true);
    let done = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    QUIET.set(false);
    done.map_err(|_| MESSAGE.take())
}

/// Takes away what is not needed to break the target: halves, then quarters, down to single bytes.
fn shrink(target: &Target, mut input: Vec<u8>) -> Vec<u8> {
    let mut tries = 4096;
    let mut len = input.len().div_ceil(2);
    while len > 0 {
        let mut at = 0;
        while at < input.len() && tries > 0 {
            tries -= 1;
            let shorter: Vec<u8> = input.iter().enumerate().filter(|(i, _)| !(at..at + len).contains(i)).map(|(_, &byte)| byte).collect();
            if run(target, &shorter).is_err() {
                input = shorter;
            } else {
                at += len;
            }
        }
        len /= 2;
    }
    input
}

fn next_input(target: &Target, pool: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let made = pool.is_empty() || random.below(3) == 0;
    let mut input = if made { (target.make)(random) } else { random.pick(pool).cloned().unwrap_or_default() };
    // What was made is worth running as it is; what is in the pool has been run.
    if !made || random.below(2) == 0 {
        for _ in 0..1 + random.below(4) {
            mutate(&mut input, target, pool, random);
        }
    }
    input.truncate(INPUT_MAX);
    input
}

/// Bytes that parsers treat in their own way.
const SPECIAL: &[u8] = b"\r\n\0 \t:;,/.%?#=@[]\\\"0159afAF-+*_~\x7f\x80\xff";

fn mutate(input: &mut Vec<u8>, target: &Target, pool: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let len = 1 + random.below(8);
    let end = (at + len).min(input.len());
    match random.below(12) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        2 | 3 => {
            let special = random.pick(SPECIAL).copied().unwrap_or_default();
            if let Some(byte) = input.get_mut(at) {
                *byte = special;
            }
        }
        4 => input.insert(at, random.pick(SPECIAL).copied().unwrap_or_default()),
        5 | 6 => {
            let word = random.pick(target.words).copied().unwrap_or_default();
            input.splice(at..at, word.iter().copied());
        }
        7 => {
            let word = random.pick(target.words).copied().unwrap_or_default();
            input.splice(at..end, word.iter().copied());
        }
        8 => drop(input.drain(at..end)),
        9 => {
            let copy = input.get(at..end).unwrap_or_default().to_vec();
            let to = random.below(input.len() + 1);
            input.splice(to..to, copy);
        }
        10 => {
            // The front of one and the end of another.
            let other = random.pick(pool).map(Vec::as_slice).unwrap_or_default();
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(other.get(from..).unwrap_or_default());
        }
        _ => input.truncate(at),
    }
}

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    #[allow(clippy::should_implement_trait, reason = "a source of numbers without an end is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// One in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len()))
    }

    /// One of these words, mostly of the good ones.
    pub fn word<'a>(&mut self, good: &[&'a str], bad: &[&'a str]) -> &'a str {
        let from = if self.once_in(24) { bad } else { good };
        self.pick(from).copied().unwrap_or_default()
    }
}
