//! One live instance: its store, what host functions find there, and the limits that the engine asks about.
//!
//! An instance answers one question at a time and is `Send`, so that a long call can change threads with everything it
//! owns. Where instances wait between questions is `pool.rs`; one question is `call.rs`.

use crate::engine::{TABLE_ELEMENTS_MAX, Ticket};
use crate::error::{Broken, Stop, WasmError};
use crate::grants::Keys;
use crate::grants::http::Home;
use crate::grants::log::{Gate, Lines};
use crate::limits::{COPY_MAX, REFUSAL_MAX, REHEARSAL};
use crate::moment::Moment;
use crate::pool::{CUTS, Watch};
use crate::ready::{Code, Needs, Role, Terms};
use crate::turn::{self, AtTick};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;
use wasmtime::component::{Component, ComponentExportIndex, TypedFunc};
use wasmtime::{ResourceLimiter, Store, StoreContextMut, UpdateDeadline};
use wharf_core::exchange::Facts;
use wharf_core::metrics::{Level, nanos};
use wharf_wasm_bindings as wit;

/// What a store holds beside the guest's own memory.
pub(crate) struct Guest {
    pub(crate) terms: Arc<Terms>,
    /// The exchange in progress.
    pub(crate) facts: Option<Arc<Facts>>,
    /// The present question ends here.
    pub(crate) deadline: Moment,
    /// Ticks that it has met in the present question.
    ticks: u32,
    /// Parsed keys; see `grants/crypto.rs`.
    pub(crate) keys: RefCell<Keys>,
    /// Where outbound calls are posted. None while a version is rehearsed.
    pub(crate) home: Option<Home>,
    pub(crate) gate: Arc<Gate>,
    /// Standard output and error, up to the end of a line.
    pub(crate) lines: [Lines; 2],
    /// The last of what it wrote to standard error while it was rehearsed.
    pub(crate) last_words: String,
    pub(crate) tally: Tally,
    limits: Limits,
}

/// What one question used. Counted here without atomics; the home core adds it to its metrics.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) host_calls: u32,
    /// Time spent waiting in host calls.
    pub(crate) waited: Duration,
    pub(crate) lines_dropped: u32,
    /// It ended in its first turn, on its core; and the watch that was kept on that turn, if one was.
    pub(crate) first_turn: Option<Option<Watch>>,
}

impl Guest {
    /// Counts a host call against the quota.
    pub(crate) fn charge(&mut self) -> wasmtime::Result<()> {
        self.tally.host_calls += 1;
        if self.tally.host_calls > self.terms.setup.quotas.host_calls_max {
            return Err(Stop::HostCalls.into());
        }
        Ok(())
    }

    /// The exchange in progress, or a trap.
    pub(crate) fn facts(&self) -> wasmtime::Result<&Facts> {
        self.facts.as_deref().ok_or_else(|| Stop::NoExchange.into())
    }
}

/// What the engine asks before it lets a guest grow.
struct Limits {
    memory_bytes_max: usize,
    memory_bytes: usize,
    /// Shown to the operator; see `metrics.rs`.
    shown: (Arc<Level>, Arc<Level>),
}

impl Limits {
    fn new(terms: &Terms) -> Limits {
        terms.shown.0.add(1);
        Limits { memory_bytes_max: terms.setup.quotas.memory_bytes_max, memory_bytes: 0, shown: terms.shown.clone() }
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        self.shown.0.add(-1);
        self.shown.1.add(-(self.memory_bytes as i64));
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        // A trap, not the `-1` that wasm knows: most allocators answer that with an endless loop or an `unreachable`
        // without words, and nobody would learn which limit it was.
        let all = self.memory_bytes.saturating_sub(current).saturating_add(desired);
        if all > self.memory_bytes_max {
            return Err(Stop::Memory.into());
        }
        self.shown.1.add(all as i64 - self.memory_bytes as i64);
        self.memory_bytes = all;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(Stop::Memory.into())
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > TABLE_ELEMENTS_MAX || maximum.is_some_and(|maximum| desired > maximum) {
            return Err(Stop::Table.into());
        }
        Ok(true)
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(Stop::Table.into())
    }

    fn instances(&self) -> usize {
        12
    }

    fn tables(&self) -> usize {
        12
    }

    fn memories(&self) -> usize {
        2
    }
}

/// Where a component's exports stand; looked up once for each code.
#[derive(Clone, Copy)]
pub(crate) struct Exports {
    schema: ComponentExportIndex,
    configure: ComponentExportIndex,
    check: Option<ComponentExportIndex>,
    pick: Option<ComponentExportIndex>,
    on_request: Option<ComponentExportIndex>,
    on_response: Option<ComponentExportIndex>,
    on_fault: Option<ComponentExportIndex>,
}

const LIFECYCLE: &str = "wharf:lifecycle/lifecycle@0.1.0";

impl Exports {
    pub(crate) fn find(component: &Component) -> Result<Exports, WasmError> {
        let find = |interface: &str, name: &str| {
            let interface = component.get_export_index(None, interface)?;
            component.get_export_index(Some(&interface), name)
        };
        let exports = Exports {
            schema: ComponentExportIndexOrNone(find(LIFECYCLE, "schema")).get("schema", component)?,
            configure: ComponentExportIndexOrNone(find(LIFECYCLE, "configure")).get("configure", component)?,
            check: find(Role::Auth.interface(), "check"),
            pick: find(Role::Route.interface(), "pick"),
            on_request: find(Role::Filter.interface(), "on-request"),
            on_response: find(Role::Filter.interface(), "on-response"),
            on_fault: find(Role::Degrade.interface(), "on-fault"),
        };
        Ok(exports)
    }

    pub(crate) fn has(&self, role: Role) -> bool {
        match role {
            Role::Auth => self.check.is_some(),
            Role::Route => self.pick.is_some(),
            Role::Filter => self.on_request.is_some() && self.on_response.is_some(),
            Role::Degrade => self.on_fault.is_some(),
        }
    }
}

struct ComponentExportIndexOrNone(Option<ComponentExportIndex>);

impl ComponentExportIndexOrNone {
    fn get(self, name: &str, component: &Component) -> Result<ComponentExportIndex, WasmError> {
        let roles = Role::ALL.iter().any(|role| component.get_export_index(None, role.interface()).is_some());
        self.0.ok_or_else(|| {
            WasmError::refused(if roles {
                format!("the component does not export `{name}` of {LIFECYCLE}; every role's world has it")
            } else {
                "the component exports none of the roles auth, route, filter, degrade; build it for a world of wharf:plugin".into()
            })
        })
    }
}

/// `check` of role auth, and `on-request` of role filter.
pub(crate) type Decide = TypedFunc<(wit::types::RequestHead<'static>,), (wit::types::Decision,)>;
/// `on-response` of role filter.
pub(crate) type Rework = TypedFunc<(wit::types::ResponseHead<'static>,), (Vec<wit::types::Edit>,)>;
/// `pick` of role route.
pub(crate) type Pick = TypedFunc<(wit::types::RequestHead<'static>,), (Option<wit::route::Target>,)>;
/// `on-fault` of role degrade.
pub(crate) type OnFault = TypedFunc<(wit::types::RequestHead<'static>, wit::degrade::Fault<'static>), (wit::degrade::Instead,)>;

/// An instance's exports, typed.
#[derive(Default)]
pub(crate) struct Questions {
    pub(crate) check: Option<Decide>,
    pub(crate) pick: Option<Pick>,
    pub(crate) on_request: Option<Decide>,
    pub(crate) on_response: Option<Rework>,
    pub(crate) on_fault: Option<OnFault>,
}

/// A live instance.
pub(crate) struct Instance {
    pub(crate) store: Store<Guest>,
    pub(crate) questions: Questions,
    instance: wasmtime::component::Instance,
    exports: Exports,
    /// What it asked to be shown.
    pub(crate) needs: Needs,
    /// It is worn after so many more questions, from this time on, or with so much memory.
    calls_left: u32,
    worn_at: Moment,
    memory_bytes_worn: usize,
    /// Last, so that the place in the counts is free only when the instance is gone.
    _ticket: Ticket,
}

impl Instance {
    /// Makes one and links it. Its start function runs in here, under the deadline of a rehearsal.
    pub(crate) async fn make(code: &Code, terms: &Arc<Terms>, home: Option<(Home, Arc<Gate>)>) -> Result<Box<Instance>, Broken> {
        let loaded = code.loaded();
        let quotas = &terms.setup.quotas;
        let ticket = Ticket::take(&loaded.engine, &terms.plugin, quotas.instances_max).map_err(Broken::NoRoom)?;
        let born = Moment::now();
        let (home, gate) = match home {
            Some((home, gate)) => (Some(home), gate),
            None => (None, Arc::new(Gate::new(quotas.log_lines_per_second))),
        };
        let guest = Guest {
            terms: terms.clone(),
            facts: None,
            deadline: born.after(nanos(REHEARSAL)),
            ticks: 0,
            keys: RefCell::default(),
            home,
            gate,
            lines: Default::default(),
            last_words: String::new(),
            tally: Tally::default(),
            limits: Limits::new(terms),
        };
        let mut store = Store::new(&loaded.engine.wasmtime, guest);
        store.limiter(|guest| &mut guest.limits);
        store.set_hostcall_fuel(COPY_MAX);
        store.epoch_deadline_callback(at_tick);
        store.set_epoch_deadline(1);
        let instance = loaded.pre.instantiate_async(&mut store).await?;
        let exports = loaded.exports;
        let questions = Questions {
            check: typed(&mut store, &instance, exports.check)?,
            pick: typed(&mut store, &instance, exports.pick)?,
            on_request: typed(&mut store, &instance, exports.on_request)?,
            on_response: typed(&mut store, &instance, exports.on_response)?,
            on_fault: typed(&mut store, &instance, exports.on_fault)?,
        };
        Ok(Box::new(Instance {
            store,
            questions,
            instance,
            exports,
            needs: Needs::default(),
            calls_left: if quotas.fresh_per_call { 1 } else { quotas.recycle_calls.max(1) },
            worn_at: born.after(nanos(quotas.recycle_after)),
            // Wasm memory never shrinks: close to its limit the next question would be the one to fail.
            memory_bytes_worn: quotas.memory_bytes_max / 4 * 3,
            _ticket: ticket,
        }))
    }

    /// Asks for the schema of its configuration.
    pub(crate) async fn schema(&mut self) -> Result<String, Broken> {
        let schema = self.instance.get_typed_func::<(), (String,)>(&mut self.store, self.exports.schema)?;
        self.store.set_epoch_deadline(1);
        let (text,) = schema.call_async(&mut self.store, ()).await?;
        Ok(text)
    }

    /// Has it take its configuration and say what it needs.
    pub(crate) async fn configured(mut self: Box<Instance>) -> Result<Box<Instance>, Broken> {
        let configure =
            self.instance.get_typed_func::<(&str,), (Result<wit::lifecycle::Needs, String>,)>(&mut self.store, self.exports.configure)?;
        let config = self.store.data().terms.setup.config.clone();
        self.store.set_epoch_deadline(1);
        let said = configure.call_async(&mut self.store, (&config,)).await;
        let (said,) = said.map_err(|error| match Broken::from(error) {
            Broken::Trap(mut trapped) => {
                crate::grants::log::flush(self.store.data_mut());
                trapped.last_words = std::mem::take(&mut self.store.data_mut().last_words);
                Broken::Trap(trapped)
            }
            other => other,
        })?;
        match said {
            Ok(needs) => self.needs = Needs::check(needs)?,
            Err(why) => return Err(Broken::Refused(clipped(&why, REFUSAL_MAX).into_owned())),
        }
        self.end();
        Ok(self)
    }

    /// A question begins.
    pub(crate) fn begin(&mut self, facts: Arc<Facts>, deadline: Moment) {
        self.calls_left = self.calls_left.saturating_sub(1);
        let guest = self.store.data_mut();
        guest.facts = Some(facts);
        guest.deadline = deadline;
        guest.ticks = 0;
        guest.tally = Tally::default();
        self.store.set_epoch_deadline(1);
    }

    /// It is over: nothing of the exchange stays.
    pub(crate) fn end(&mut self) -> Tally {
        let guest = self.store.data_mut();
        guest.facts = None;
        if guest.lines.iter().any(|lines| !lines.is_empty()) {
            crate::grants::log::flush(guest);
        }
        guest.tally
    }

    /// Is it worn, so that a new one should take its place?
    pub(crate) fn is_worn(&self, now: Moment) -> bool {
        self.calls_left == 0 || now >= self.worn_at || self.store.data().limits.memory_bytes > self.memory_bytes_worn
    }
}

fn typed<P, R>(
    store: &mut Store<Guest>,
    instance: &wasmtime::component::Instance,
    at: Option<ComponentExportIndex>,
) -> Result<Option<TypedFunc<P, R>>, Broken>
where
    P: wasmtime::component::ComponentNamedList + wasmtime::component::Lower,
    R: wasmtime::component::ComponentNamedList + wasmtime::component::Lift,
{
    Ok(match at {
        Some(at) => Some(instance.get_typed_func::<P, R>(store, at)?),
        None => None,
    })
}

/// Called by the engine when a guest meets a check after a tick.
fn at_tick(mut store: StoreContextMut<'_, Guest>) -> wasmtime::Result<UpdateDeadline> {
    let now = Moment::now();
    let guest = store.data_mut();
    guest.ticks += 1;
    // Who computes until its deadline meets tick after tick. One that meets its first ones behind it was not computing:
    // its machine or its process stood still, and nothing on a clock tells that from work. It may end what it began.
    if now >= guest.deadline && guest.ticks > CUTS {
        return Err(Stop::Deadline.into());
    }
    Ok(match turn::at_tick(now) {
        AtTick::GoOn => UpdateDeadline::Continue(1),
        AtTick::GiveWay => UpdateDeadline::Yield(1),
    })
}

/// Text cut to at most `max` bytes at a character's edge.
pub(crate) fn clipped(text: &str, max: usize) -> std::borrow::Cow<'_, str> {
    if text.len() <= max {
        return text.into();
    }
    let end = (0..=max).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    format!("{}...", text.get(..end).unwrap_or_default()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_and_a_memory_beyond_their_limits_end_in_a_trap_that_says_so() {
        let engine = wasmtime::Engine::default();
        let module = r#"(module
            (table 1 funcref) (memory 1)
            (func (export "table") (param i32) (result i32) (table.grow (ref.null func) (local.get 0)))
            (func (export "memory") (param i32) (result i32) (memory.grow (local.get 0))))"#;
        let module = wasmtime::Module::new(&engine, wat::parse_str(module).unwrap()).unwrap();
        let shown = (Arc::new(Level::default()), Arc::new(Level::default()));
        let limits = || Limits { memory_bytes_max: 4 << 16, memory_bytes: 0, shown: shown.clone() };
        for (what, fits, bomb, stop) in
            [("table", 99_999, 1_000_000, Stop::Table), ("memory", 3, 60_000, Stop::Memory), ("memory", 3, 4, Stop::Memory)]
        {
            for (by, expected) in [(fits, None), (bomb, Some(stop))] {
                let mut store = Store::new(&engine, limits());
                store.limiter(|limits| limits);
                let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
                let grow = instance.get_typed_func::<i32, i32>(&mut store, what).unwrap();
                let said = grow.call(&mut store, by).map_err(|error| error.downcast_ref::<Stop>().cloned());
                assert_eq!(said.err().flatten(), expected, "{what} by {by}");
            }
        }
        assert_eq!(shown.1.get(), 0, "what was counted is given back");
    }

    #[test]
    fn text_is_clipped_at_a_characters_edge() {
        assert_eq!(clipped("short", 5), "short");
        assert_eq!(clipped("\u{e9}\u{e9}", 3), "\u{e9}...");
    }
}
