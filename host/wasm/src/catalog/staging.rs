//! The steps between stored bytes and versions that are ready: code, schema, checks, rehearsals. The road that asks for
//! them is [`super`]; nothing here changes what serves.

use super::*;
use crate::child::ChildError;
use crate::disk::Compiled;
use crate::examine::missing_grant;
use crate::ready::{Parts, Setup};
use crate::wants::Granted;

/// A version on its way to serve.
pub(super) struct Candidate<'a> {
    pub(super) plugin: &'a Arc<str>,
    pub(super) version: u32,
    pub(super) digest: Digest,
    pub(super) schema: &'a str,
    pub(super) code: &'a Code,
}

/// The rehearsal of one configuration.
pub(super) struct Rehearsed {
    pub(super) config: Arc<str>,
    pub(super) place: Arc<str>,
    pub(super) result: Result<Arc<Ready>, CatalogError>,
}

impl Catalog {
    /// Code, checks and rehearsals of a stored version, with every configuration that is wanted of it.
    pub(super) async fn stage(
        self: &Arc<Self>,
        plugin: &Arc<str>,
        stored: &Stored,
        wants: &Wants,
    ) -> Result<Vec<Arc<Ready>>, CatalogError> {
        let digest = digest_of(&stored.digest).ok_or_else(|| Refusal::Internal(format!("{:?} is no digest", stored.digest)))?;
        let code = self.stored_code(plugin, stored.version, digest).await?;
        let roles = roles_of(stored);
        let candidate = Candidate { plugin, version: stored.version, digest, schema: &stored.schema, code: &code };
        fits(plugin, &roles, &stored.imports, wants)?;
        all_ready(self.rehearse(&candidate, wants, false).await?)
    }

    /// The code of a stored version; marks the version where its files are damaged.
    pub(super) async fn stored_code(self: &Arc<Self>, plugin: &Arc<str>, version: u32, digest: Digest) -> Result<Code, CatalogError> {
        let code = self.code(plugin, digest).await;
        let mut state = self.lock();
        let Some(known) = state.plugins.get_mut(plugin) else { return code };
        match code {
            Ok(code) => {
                known.unusable.remove(&version);
                Ok(code)
            }
            Err(CatalogError(Refusal::Unusable { why, .. })) => {
                warn!(%plugin, version, why, "a stored version is unusable");
                known.unusable.insert(version, why.clone());
                Err(Refusal::Unusable { plugin: plugin.clone(), version, why }.into())
            }
            other => other,
        }
    }

    /// The code of a component that lies on disk: from a version that lives, from its compiled form, or compiled now.
    pub(super) async fn code(self: &Arc<Self>, plugin: &Arc<str>, digest: Digest) -> Result<Code, CatalogError> {
        let living = self.lock().living.iter().filter_map(Weak::upgrade).find(|ready| ready.setup.digest == digest);
        if let Some(ready) = living {
            return Ok(ready.code.clone());
        }
        let engine = self.engine()?;
        for is_fresh in [false, true] {
            let me = self.clone();
            let there = blocking(move || me.disk.compiled(&digest)).await?.filter(|_| !is_fresh);
            let compiled = match there {
                Some(compiled) => compiled,
                None => self.compile(plugin, digest).await?,
            };
            let engine = engine.clone();
            match blocking(move || engine.load(&compiled.path, &compiled.sha256.0)).await? {
                Ok(code) => return Ok(code),
                Err(error) if is_fresh => return Err(Refusal::Load { plugin: plugin.clone(), error }.into()),
                // Cut by a crash, damaged on disk, or of another engine after all: it is only a cache.
                Err(error) => warn!(%plugin, %digest, %error, "a compiled form is not usable and is made again"),
            }
        }
        Err(Refusal::Internal("no code".into()).into())
    }

    async fn compile(self: &Arc<Self>, plugin: &Arc<str>, digest: Digest) -> Result<Compiled, CatalogError> {
        let me = self.clone();
        // The caller knows the version; see `stored_code`.
        blocking(move || me.disk.read_component(&digest)).await?.map_err(|why| Refusal::Unusable {
            plugin: plugin.clone(),
            version: 0,
            why,
        })?;
        let aside = Aside(self.disk.new_path());
        let sum = self.child.compile(&self.disk.component_path(&digest), &aside.0).await.map_err(|error| match error {
            ChildError::NotWritten(why) => Refusal::CompiledStorage { plugin: plugin.clone(), why },
            error => Refusal::Compile { plugin: plugin.clone(), error },
        })?;
        let me = self.clone();
        Ok(blocking(move || me.disk.place_compiled(&digest, &aside.0, &sum)).await??)
    }

    pub(super) fn engine(&self) -> Result<Arc<Engine>, CatalogError> {
        let mut state = self.lock();
        if let Some(engine) = state.engine.upgrade() {
            return Ok(engine);
        }
        let engine = Engine::start(&self.parts.engine).map_err(Refusal::Engine)?;
        state.engine = Arc::downgrade(&engine);
        Ok(engine)
    }

    /// Is there an engine? Not before a plugin needs one, and not after the last one is gone.
    pub fn has_engine(&self) -> bool {
        self.lock().engine.strong_count() > 0
    }

    /// What the cores' part of the room stands on; makes the engine if there is none. A core that holds it keeps the
    /// engine, so a gateway that attaches no plugin does not ask.
    ///
    /// # Errors
    /// The machine refuses the engine.
    pub fn parts(&self) -> Result<Parts, CatalogError> {
        Ok(Parts { engine: self.engine()?, store: self.parts.store.clone(), metrics: self.parts.metrics.clone() })
    }

    pub(super) async fn ask_schema(
        &self,
        plugin: &Arc<str>,
        version: u32,
        digest: Digest,
        code: &Code,
        wants: &Wants,
    ) -> Result<String, CatalogError> {
        let Granted { grants, quotas, .. } = wants.granted(plugin);
        let setup = Setup { plugin: plugin.clone(), version, digest, config: "{}".into(), grants, quotas };
        Ok(code.schema(&self.parts()?, setup).await.map_err(|error| Refusal::Start { error })?)
    }

    /// What serves after `change`, with the last good version beside it.
    pub(super) async fn serving_with_spare(
        self: &Arc<Self>,
        plugin: &Arc<str>,
        version: u32,
        ready: Vec<Arc<Ready>>,
        change: &impl Fn(&mut Index),
        wants: &Wants,
    ) -> Serving {
        Serving { version, ready, spare: self.spare(plugin, change, wants).await }
    }

    /// The last good version as it will be after `change`, ready for the attachments that asked for one. Best effort:
    /// without it their failure policy answers.
    pub(super) async fn spare(self: &Arc<Self>, plugin: &Arc<str>, change: impl Fn(&mut Index), wants: &Wants) -> Vec<Arc<Ready>> {
        let asked: BTreeSet<_> = wants.of(plugin).filter(|wanted| wanted.last_good).map(|wanted| wanted.config.clone()).collect();
        if asked.is_empty() {
            return Vec::new();
        }
        let earlier: Option<Stored> = {
            let state = self.lock();
            let Some(known) = state.plugins.get(plugin) else { return Vec::new() };
            let mut after = known.index.clone();
            change(&mut after);
            let version = after.history.earlier().find(|version| !known.unusable.contains_key(version));
            version.and_then(|version| after.version(version).cloned())
        };
        let Some(stored) = earlier else { return Vec::new() };
        match self.stage(plugin, &stored, wants).await {
            Ok(mut ready) => {
                ready.retain(|one| asked.contains(&one.setup.config));
                ready
            }
            Err(error) => {
                warn!(%plugin, version = stored.version, reason = %error, "the last good version cannot be kept ready");
                Vec::new()
            }
        }
    }

    /// Checks every wanted configuration against the schema and configures a fresh instance with each. An error is
    /// about all of them. `new_schema`: check the schema itself even if no configuration is there.
    pub(super) async fn rehearse(
        self: &Arc<Self>,
        candidate: &Candidate<'_>,
        wants: &Wants,
        new_schema: bool,
    ) -> Result<Vec<Rehearsed>, CatalogError> {
        let plugin = candidate.plugin;
        let mut configs: BTreeMap<&Arc<str>, &Arc<str>> = BTreeMap::new();
        for wanted in wants.of(plugin) {
            configs.entry(&wanted.config).or_insert(&wanted.place);
        }
        let mistakes = self.check(candidate, configs.keys().copied(), new_schema).await?;
        let (parts, granted) = (self.parts()?, wants.granted(plugin));
        let one = |(config, place): (&Arc<str>, &Arc<str>)| {
            let (config, place) = (config.clone(), place.clone());
            let (parts, granted, mistakes) = (&parts, &granted, mistakes.get(&config));
            async move {
                let result = match mistakes {
                    Some(mistakes) => {
                        let (plugin, place, mistakes) = (plugin.clone(), place.clone(), mistakes.clone());
                        Err(Refusal::Config { plugin, place, version: candidate.version, mistakes, others: 0 }.into())
                    }
                    None => self.rehearse_one(candidate, &config, &place, granted, parts).await,
                };
                Rehearsed { config, place, result }
            }
        };
        let mut rehearsed: Vec<Rehearsed> = stream::iter(configs.into_iter().map(one)).buffer_unordered(REHEARSALS_AT_ONCE).collect().await;
        rehearsed.sort_by(|a, b| a.config.cmp(&b.config));
        Ok(rehearsed)
    }

    async fn rehearse_one(
        &self,
        candidate: &Candidate<'_>,
        config: &Arc<str>,
        place: &Arc<str>,
        granted: &Granted,
        parts: &Parts,
    ) -> Result<Arc<Ready>, CatalogError> {
        let Candidate { plugin, version, digest, .. } = *candidate;
        // Ready already: the cores keep their warm instances of it.
        let key = (plugin.clone(), config.clone());
        let same = {
            let state = self.lock();
            let held = [state.ready.get(&key), state.spare.get(&key)].into_iter().flatten();
            held.into_iter()
                .find(|have| have.setup.version == version && have.setup.grants == granted.grants && have.setup.quotas == granted.quotas)
                .cloned()
        };
        if let Some(same) = same {
            return Ok(same);
        }
        let setup = Setup {
            plugin: plugin.clone(),
            version,
            digest,
            config: config.clone(),
            grants: granted.grants.clone(),
            quotas: granted.quotas.clone(),
        };
        let rehearsed = candidate.code.rehearse(parts, setup).await;
        rehearsed.map_err(|error| Refusal::Rehearsal { place: place.clone(), error, others: 0 }.into())
    }

    /// The configurations that do not fit, with their mistakes. The plugin's schema is never evaluated in our process:
    /// it may be built to recurse or to take for ever.
    async fn check<'a>(
        &self,
        candidate: &Candidate<'_>,
        configs: impl Iterator<Item = &'a Arc<str>>,
        new_schema: bool,
    ) -> Result<HashMap<Arc<str>, Vec<String>>, CatalogError> {
        let schema = candidate.schema;
        if schema.trim().is_empty() {
            let has_some =
                |config: &&Arc<str>| !matches!(serde_json::from_str(config), Ok(serde_json::Value::Object(map)) if map.is_empty());
            let mistake = || vec!["the top: this plugin takes no configuration, so it must be {}".to_owned()];
            return Ok(configs.filter(has_some).map(|config| (config.clone(), mistake())).collect());
        }
        let sum = |config: &str| sha256(format!("{}:{schema}{config}", schema.len()).as_bytes());
        let unchecked: Vec<Arc<str>> = {
            let state = self.lock();
            configs.filter(|config| !state.checked.contains(&sum(config))).cloned().collect()
        };
        if unchecked.is_empty() && !new_schema {
            return Ok(HashMap::new());
        }
        let asked = unchecked.iter().map(|config| config.to_string()).collect();
        let mistakes =
            self.child.check(schema, asked).await.map_err(|error| Refusal::Schema { plugin: candidate.plugin.clone(), error })?;
        let (mut bad, mut state) = (HashMap::new(), self.lock());
        for (config, mistakes) in unchecked.into_iter().zip(mistakes) {
            if mistakes.is_empty() {
                if state.checked.len() >= CHECKS_KEPT {
                    state.checked.clear();
                }
                state.checked.insert(sum(&config));
            } else {
                bad.insert(config, mistakes);
            }
        }
        Ok(bad)
    }
}

/// Does it answer what it is attached for, and is it granted what it imports?
pub(super) fn fits(plugin: &Arc<str>, roles: &[Role], imports: &[String], wants: &Wants) -> Result<(), CatalogError> {
    grants_fit(plugin, imports, wants)?;
    wants.of(plugin).try_for_each(|wanted| role_fits(wanted, roles))
}

pub(super) fn role_fits(wanted: &Wanted, roles: &[Role]) -> Result<(), CatalogError> {
    let fits = match wanted.role {
        Some(role) => roles.contains(&role),
        None => roles.iter().any(|&role| role != Role::Route),
    };
    if fits {
        return Ok(());
    }
    Err(role_missing(wanted, wanted.role.map_or("auth, filter or degrade", Role::as_str), roles))
}

/// Where an attachment does not say in which role it is asked, it is asked in all. A new version that has lost one would
/// take a rule away without anybody having said so: an auth plugin that is only a filter any more lets everybody in.
pub(super) fn keeps_roles(state: &State, plugin: &Arc<str>, roles: &[Role]) -> Result<(), CatalogError> {
    let Some(wanted) = state.wants.of(plugin).find(|wanted| wanted.role.is_none()) else { return Ok(()) };
    let Some(known) = state.plugins.get(plugin) else { return Ok(()) };
    let Some(serving) = known.index.history.serving().and_then(|version| known.index.version(version)) else { return Ok(()) };
    let lost = roles_of(serving).into_iter().find(|role| *role != Role::Route && !roles.contains(role));
    lost.map_or(Ok(()), |lost| Err(role_missing(wanted, lost.as_str(), roles)))
}

fn role_missing(wanted: &Wanted, role: &'static str, roles: &[Role]) -> CatalogError {
    let has = roles.iter().map(|&role| role.as_str()).collect::<Vec<_>>().join(", ");
    Refusal::Role { plugin: wanted.plugin.clone(), place: wanted.place.clone(), wanted: role, has }.into()
}

pub(super) fn grants_fit(plugin: &Arc<str>, imports: &[String], wants: &Wants) -> Result<(), CatalogError> {
    match missing_grant(plugin, imports, &wants.granted(plugin).grants) {
        None => Ok(()),
        Some((import, line)) => Err(Refusal::Grant { plugin: plugin.clone(), import, line }.into()),
    }
}

/// All of them, or the first refusal with the number of the others.
pub(super) fn all_ready(rehearsed: Vec<Rehearsed>) -> Result<Vec<Arc<Ready>>, CatalogError> {
    let (mut ready, mut first, mut failed) = (Vec::new(), None, 0usize);
    for one in rehearsed {
        match one.result {
            Ok(one) => ready.push(one),
            Err(error) => {
                failed += 1;
                first.get_or_insert(error);
            }
        }
    }
    match first {
        None => Ok(ready),
        Some(CatalogError(mut refusal)) => {
            if let Refusal::Config { others, .. } | Refusal::Rehearsal { others, .. } = &mut refusal {
                *others = failed.saturating_sub(1);
            }
            Err(CatalogError(refusal))
        }
    }
}

pub(super) fn roles_of(stored: &Stored) -> Vec<Role> {
    Role::ALL.into_iter().filter(|role| stored.roles.iter().any(|have| have == role.as_str())).collect()
}

/// A file written aside; removed unless it got its place.
struct Aside(PathBuf);

impl Drop for Aside {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
