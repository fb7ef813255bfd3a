//! Addresses of containers: each server has a network for them (docs/rfd/0007), and an instance that is placed there
//! is given the next address of it that nobody has.
//!
//! The next one, not the lowest: other servers may send requests to an address for a moment after its instance is
//! gone, and must not meet another service there. An address comes round again only after all others.

use crate::pen::Write;
use crate::{Error, Result, Scope};
use api::addresses::ServerAddresses;
use api::ids::ServerId;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Last parts of addresses that containers may have: `.1` is the server itself.
const FIRST: u8 = 2;
const LAST: u8 = 254;

/// An address on the server that no other instance has.
pub async fn take(transaction: &mut Write, scope: &Scope, server_id: &ServerId) -> Result<Ipv4Addr> {
    let organization = scope.organization.as_str();
    let row = sqlx::query_as::<_, (i64,)>("SELECT number FROM servers WHERE id = $1 AND organization_id = $2")
        .bind(server_id.as_str())
        .bind(organization)
        .fetch_optional(&mut **transaction)
        .await?;
    let (number,) = row.ok_or_else(|| Error::not_found("server", server_id.as_str()))?;
    let addresses = u16::try_from(number).ok().and_then(ServerAddresses::of);
    let addresses = addresses.ok_or_else(|| Error::corrupt("server", format!("number {number}")))?;
    let used = sqlx::query_as::<_, (i64,)>(
        "SELECT address FROM instances WHERE server_id = $1 AND organization_id = $2 AND address IS NOT NULL",
    )
    .bind(server_id.as_str())
    .bind(organization)
    .fetch_all(&mut **transaction)
    .await?;
    let used: BTreeSet<u8> = used.into_iter().map(|(address,)| last_part(address)).collect::<Result<_>>()?;
    let counter = format!("container address of {server_id}");
    let last = sqlx::query_as::<_, (i64,)>("SELECT value FROM counters WHERE organization_id = $1 AND name = $2")
        .bind(organization)
        .bind(&counter)
        .fetch_optional(&mut **transaction)
        .await?;
    let last = last.and_then(|(last,)| u8::try_from(last).ok()).unwrap_or(LAST);
    let chosen = next(last, &used).ok_or_else(|| Error::AddressesFull { server: server_id.to_string() })?;
    sqlx::query(
        "INSERT INTO counters (organization_id, name, value) VALUES ($1, $2, $3)
         ON CONFLICT (organization_id, name) DO UPDATE SET value = excluded.value",
    )
    .bind(organization)
    .bind(&counter)
    .bind(i64::from(chosen))
    .execute(&mut **transaction)
    .await?;
    let [a, b, c, _] = addresses.container_gateway.octets();
    Ok(Ipv4Addr::new(a, b, c, chosen))
}

pub fn to_column(address: Option<Ipv4Addr>) -> Option<i64> {
    address.map(|address| i64::from(address.to_bits()))
}

pub fn from_column(value: Option<i64>) -> Result<Option<Ipv4Addr>> {
    value
        .map(|value| u32::try_from(value).map(Ipv4Addr::from_bits).map_err(|e| Error::corrupt("instance", e)))
        .transpose()
}

fn last_part(value: i64) -> Result<u8> {
    Ok(from_column(Some(value))?.map_or(0, |address| address.octets()[3]))
}

/// The first free one after `last`, going round.
fn next(last: u8, used: &BTreeSet<u8>) -> Option<u8> {
    let after = (last.saturating_add(1).max(FIRST)..=LAST).chain(FIRST..=last.min(LAST));
    after.into_iter().find(|part| !used.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_round_again_only_after_all_others() {
        assert_eq!(next(LAST, &BTreeSet::new()), Some(2), "the first of all");
        assert_eq!(next(2, &BTreeSet::new()), Some(3), "2 is free again, and not taken");
        assert_eq!(next(2, &BTreeSet::from([3, 4])), Some(5));
        assert_eq!(next(253, &BTreeSet::from([254, 2])), Some(3));
        let all: BTreeSet<u8> = (FIRST..=LAST).collect();
        assert_eq!(next(77, &all), None);
        let mut one_left = all;
        one_left.remove(&77);
        assert_eq!(next(77, &one_left), Some(77));
    }
}
