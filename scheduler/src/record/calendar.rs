//! Dated quotas <-> the wire.

use dure_core::calendar::{DatedKey, DatedQuota};
use dure_core::units::Time;
use dure_proto::journal::v1;

use super::fault::{Fault, needed};
use super::parts::{pool, quota_from_wire, quota_to_wire, tenant};

pub(super) fn dated_key_to_wire(key: DatedKey) -> v1::DatedKey {
    v1::DatedKey { tenant: u32::from(key.tenant.0), pool: u32::from(key.pool.0), from_ms: key.from.0 }
}

pub(super) fn dated_key_from_wire(field: &'static str, wire: Option<v1::DatedKey>) -> Result<DatedKey, Fault> {
    let wire = needed(field, wire)?;
    Ok(DatedKey {
        tenant: tenant("DatedKey.tenant", wire.tenant)?,
        pool: pool("DatedKey.pool", wire.pool)?,
        from: Time(wire.from_ms),
    })
}

pub(super) fn dated_to_wire(dated: &DatedQuota) -> v1::QuotaDated {
    let DatedQuota { key, until, quota, standing } = dated;
    v1::QuotaDated {
        tenant: u32::from(key.tenant.0),
        quota: Some(quota_to_wire(key.pool, quota)),
        from_ms: key.from.0,
        until_ms: until.map(|until| until.0),
        standing: standing.as_ref().map(|standing| quota_to_wire(key.pool, standing)),
    }
}

pub(super) fn dated_from_wire(wire: &v1::QuotaDated) -> Result<DatedQuota, Fault> {
    let (pool, quota) = quota_from_wire(needed("QuotaDated.quota", wire.quota.as_ref())?)?;
    let key = DatedKey { tenant: tenant("QuotaDated.tenant", wire.tenant)?, pool, from: Time(wire.from_ms) };
    let standing = wire.standing.as_ref().map(quota_from_wire).transpose()?.map(|(_, standing)| standing);
    Ok(DatedQuota { key, until: wire.until_ms.map(Time), quota, standing })
}
