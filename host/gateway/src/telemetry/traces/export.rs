//! Sends what is in the outbox to the collector: in batches, one at a time, each within its deadline, and again if the
//! collector says that it will have it later. On the control runtime; a collector that hangs keeps nobody waiting.

use super::{Counts, Finished, otlp};
use crate::assemble::Generation;
use crate::config::plan::Traces;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wharf_core::metrics::Registry;

/// How often somebody looks into the outbox.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Most traces in one request.
const BATCH_MAX: usize = 256;
/// Tries of one batch, and the wait before the second; it doubles.
const TRIES_MAX: u32 = 3;
const WAIT: Duration = Duration::from_secs(1);
/// What is left at the end has this long.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// How often it is told that the collector does not take anything.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Largest answer of a collector that is read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// The one who sends. House-wide.
pub struct Exporter {
    end: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Begins to send, to where the newest generation says.
    pub fn start(generations: watch::Receiver<Arc<Generation>>, metrics: Arc<Registry>) -> Exporter {
        let (end, ending) = watch::channel(false);
        let task = tokio::spawn(run(generations, metrics, ending));
        Exporter { end, task }
    }

    /// Sends what is left, for a moment at most. Cores should have ended.
    pub async fn close(self) {
        self.end.send_replace(true);
        let task = self.task.abort_handle();
        if tokio::time::timeout(CLOSE_MAX, self.task).await.is_err() {
            task.abort();
            tracing::warn!("the last traces could not be sent within {CLOSE_MAX:?}");
        }
    }
}

async fn run(mut generations: watch::Receiver<Arc<Generation>>, metrics: Arc<Registry>, mut ending: watch::Receiver<bool>) {
    let mut sending = Sending { told: None, gave_up: false };
    loop {
        let (outbox, traces, node) = {
            let generation = generations.borrow_and_update();
            (generation.outbox.clone(), generation.plan.traces.clone(), generation.plan.node.name.clone())
        };
        let is_ending = *ending.borrow();
        match &traces {
            Some(traces) => {
                let counts = outbox.counts.get_or_init(|| Counts::new(&metrics));
                for batch in outbox.take().chunks(BATCH_MAX) {
                    sending.batch(batch, counts, traces, &node, is_ending, &generations).await;
                }
                sending.gave_up = false;
            }
            // Nobody is traced any more, and nobody knows where to.
            None => drop(outbox.take()),
        }
        if is_ending {
            return;
        }
        tokio::select! {
            changed = generations.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            _ = ending.wait_for(|end| *end) => {}
            () = tokio::time::sleep(LOOK_EVERY), if traces.is_some() => {}
        }
    }
}

struct Sending {
    told: Option<Instant>,
    /// A batch was given up: the collector is not tried with the others that waited with it.
    gave_up: bool,
}

impl Sending {
    async fn batch(
        &mut self,
        batch: &[Finished],
        counts: &Counts,
        traces: &Traces,
        node: &str,
        is_ending: bool,
        generations: &watch::Receiver<Arc<Generation>>,
    ) {
        if self.gave_up {
            let spans = batch.iter().map(|finished| 1 + finished.trace.spans().0.len() as u64).sum();
            return counts.collector.add_shared(spans);
        }
        let (body, spans) = otlp::request(&traces.service_name, node, batch);
        let body = Arc::new(body);
        let mut wait = WAIT;
        for number in 1..=TRIES_MAX {
            let (to, body) = (traces.clone(), body.clone());
            let sent = tokio::task::spawn_blocking(move || send(&to, &body)).await;
            let failed = match sent {
                Ok(Ok(rejected)) => {
                    let rejected = rejected.min(spans);
                    counts.exported.add_shared(spans - rejected);
                    counts.rejected.add_shared(rejected);
                    if self.told.take().is_some() {
                        tracing::info!(collector = &*traces.to, "the collector takes traces again");
                    }
                    return;
                }
                Ok(Err(failed)) => failed,
                Err(panicked) => Failed { why: panicked.to_string(), later: false },
            };
            // Another configuration may name another collector.
            let is_changed = generations.has_changed().unwrap_or(true);
            if !failed.later || number == TRIES_MAX || is_ending || is_changed {
                self.gave_up = true;
                counts.collector.add_shared(spans);
                self.tell(traces, &failed.why);
                return;
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
    }

    fn tell(&mut self, traces: &Traces, why: &str) {
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            tracing::warn!(
                collector = &*traces.to,
                why,
                "the collector does not take traces; spans are dropped and counted in wharf_trace_spans_dropped_total"
            );
        }
    }
}

/// Why a batch was not taken.
struct Failed {
    why: String,
    /// It may be taken later.
    later: bool,
}

/// Sends one batch; says how many spans of it the collector did not take.
fn send(traces: &Traces, body: &[u8]) -> Result<u64, Failed> {
    let config =
        ureq::Agent::config_builder().timeout_global(Some(traces.timeout)).http_status_as_error(false).max_redirects(0).proxy(None).build();
    let mut request = ureq::Agent::new_with_config(config).post(&*traces.to).header("content-type", "application/x-protobuf");
    for (name, value) in &traces.headers {
        request = request.header(&**name, &**value);
    }
    let mut answer = request.send(body).map_err(|error| Failed { why: error.to_string(), later: true })?;
    let status = answer.status().as_u16();
    if !(200..300).contains(&status) {
        return Err(Failed { why: format!("it answers {status}"), later: matches!(status, 429 | 502..=504) });
    }
    let answer = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().unwrap_or_default();
    Ok(otlp::rejected(&answer))
}
