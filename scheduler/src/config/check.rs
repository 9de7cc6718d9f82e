//! What a configuration must be: every check before anything starts.

use std::collections::BTreeMap;

use dure_core::units::Span;

use super::{Config, ConfigError, LivenessConfig, QuotaOf, bad};

/// The shortest heartbeat that is asked of agents.
const MIN_HEARTBEAT: Span = Span(10);

impl Config {
    /// Refuses what cannot work, before anything is started.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_access()?;
        self.check_liveness()?;
        self.check_pools()?;
        self.check_tenants()?;
        self.policy.check()?;
        self.check_etcd()?;
        self.check_fence()?;
        self.check_kept()?;
        if self.snapshot.every_events == 0 || self.snapshot.every == Span::ZERO {
            return Err(bad("snapshot.every_events", self.snapshot.every_events, "use at least 1, and a time above 0"));
        }
        Ok(())
    }

    fn check_access(&self) -> Result<(), ConfigError> {
        if self.data_dir.as_os_str().is_empty() {
            return Err(bad("data_dir", &self.data_dir, "name a folder for the journal"));
        }
        let is_local = self.is_loopback();
        if let Some(user) = &self.local_operator {
            if user.is_empty() || user.chars().any(|c| c.is_whitespace() || c.is_control()) {
                return Err(bad("local_operator", user, "name a user, without white space"));
            }
            if !is_local {
                let remedy = "only where every address is a loopback one: remove it, or listen on 127.0.0.1";
                return Err(bad("local_operator", user, remedy));
            }
        }
        if !self.listen.ip().is_loopback() && self.tokens.is_none() {
            let remedy = "not a loopback address, so callers must show who they are: set tokens = \"tokens.toml\" (make \
                          tokens with dure token create), or listen on 127.0.0.1";
            return Err(bad("listen", self.listen, remedy));
        }
        if let Some(tls) = &self.tls
            && tls.cert.is_some() != tls.key.is_some()
        {
            let missing = if tls.cert.is_none() { "tls.cert" } else { "tls.key" };
            let remedy =
                "set cert and key together, or leave both out for a certificate of the cluster's own authority";
            return Err(bad(missing, format_args!("absent"), remedy));
        }
        Ok(())
    }

    fn check_fence(&self) -> Result<(), ConfigError> {
        let Some(fence) = &self.fence else { return Ok(()) };
        if !fence.command.first().is_some_and(|program| program.starts_with('/')) {
            return Err(bad("fence.command", &fence.command, "name a program by its full path, then its arguments"));
        }
        if fence.timeout == Span::ZERO || fence.again_after < Span::seconds(1) {
            return Err(bad("fence.timeout", fence.timeout, "use more than 0, and at least 1s for again_after"));
        }
        Ok(())
    }

    fn check_liveness(&self) -> Result<(), ConfigError> {
        let LivenessConfig { heartbeat, suspect_after, lost_after, fence_percent: _ } = self.liveness;
        if heartbeat < MIN_HEARTBEAT {
            return Err(bad("liveness.heartbeat", heartbeat, "use 10ms or more"));
        }
        if suspect_after.0 < heartbeat.0.saturating_mul(2) {
            return Err(bad("liveness.suspect_after", suspect_after, "use at least two heartbeats"));
        }
        if lost_after <= suspect_after {
            return Err(bad("liveness.lost_after", lost_after, "use more than suspect_after"));
        }
        Ok(())
    }

    fn check_pools(&self) -> Result<(), ConfigError> {
        let most = dure_core::gpu::MAX_GPUS_PER_NODE;
        for (at, pool) in self.pools.iter().enumerate() {
            let field = |name: &str| format!("pool[{at}].{name}");
            if pool.name.is_empty() || pool.model.is_empty() {
                return Err(bad(field("name"), &pool.name, "give the pool a name and the GPU model as NVML names it"));
            }
            if pool.gpus_per_node == 0 || usize::from(pool.gpus_per_node) > most {
                return Err(bad(field("gpus_per_node"), pool.gpus_per_node, format!("use 1 to {most}")));
            }
            if self.pools[..at].iter().any(|other| other.name == pool.name) {
                return Err(bad(field("name"), &pool.name, "there is another pool of this name: rename one"));
            }
        }
        Ok(())
    }

    fn check_tenants(&self) -> Result<(), ConfigError> {
        let mut sums: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (at, tenant) in self.tenants.iter().enumerate() {
            let field = |name: &str| format!("tenant[{at}].{name}");
            if self.tenants[..at].iter().any(|other| other.name == tenant.name) {
                return Err(bad(field("name"), &tenant.name, "defined twice: remove one"));
            }
            let above = tenant.name.rsplit_once('/').map(|(above, _)| above);
            if let Some(above) = above.filter(|above| !self.tenants.iter().any(|other| other.name == **above)) {
                return Err(bad(field("name"), &tenant.name, format!("define {above:?} as well")));
            }
            if tenant.quota.is_none() && (tenant.limit.is_some() || tenant.lend_limit.is_some()) {
                return Err(bad(
                    field("quota"),
                    format_args!("absent"),
                    "a limit or lend_limit needs a quota beside it; 0 is one",
                ));
            }
            for quota in self.quotas(tenant) {
                self.check_quota(&quota, &field)?;
                *sums.entry((above.unwrap_or(""), quota.pool)).or_default() += u64::from(quota.quota.rounded_up());
            }
        }
        for ((above, pool), sum) in &sums {
            let own = self.tenants.iter().find(|tenant| tenant.name == **above);
            let quota = own.and_then(|own| self.quotas(own).into_iter().find(|quota| quota.pool == *pool));
            if let Some(quota) = quota.filter(|quota| u64::from(quota.quota.rounded_up()) < *sum) {
                let remedy = format!("below the {sum} of the tenants right below it: raise it, or lower theirs");
                return Err(bad(format!("tenant {above:?} quota"), quota.quota.rounded_up(), remedy));
            }
        }
        Ok(())
    }

    fn check_quota(&self, quota: &QuotaOf<'_>, field: &dyn Fn(&str) -> String) -> Result<(), ConfigError> {
        if !self.pools.iter().any(|known| known.name == *quota.pool) {
            return Err(bad(field("pool"), quota.pool, "name one of the [[pool]]s of this file"));
        }
        if let Some(limit) = quota.limit.filter(|limit| *limit < quota.quota) {
            return Err(bad(field("limit"), limit.rounded_up(), format!("use the quota of {} or more", quota.quota)));
        }
        if let Some(lend) = quota.lend_limit.filter(|lend| *lend > quota.quota) {
            return Err(bad(
                field("lend_limit"),
                lend.rounded_up(),
                format!("use at most the quota of {}", quota.quota),
            ));
        }
        Ok(())
    }
}
