//! Checks the values that etcd decodes when it starts, besides the records. etcd does not start if it cannot decode one of
//! them. For each rule, a version from 3.4 to 3.7 was observed to crash or to lose data.

use crate::wire::{self, Content, Field};
use serde_json::Value as Json;

/// `api/authpb/auth.proto`. name, password, roles, options.
const USER: &[Field] = &[
    Field::Bytes,
    Field::Bytes,
    Field::Bytes,
    Field::Message(&[Field::Number]),
];
/// name, permissions (type, key, end of range).
const ROLE: &[Field] = &[
    Field::Bytes,
    Field::Message(&[Field::Number, Field::Bytes, Field::Bytes]),
];
/// etcd's own limit. A larger value overflows, and etcd deletes the keys of the lease just after its start.
pub(crate) const MAX_TTL_S: i64 = 9_000_000_000;

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// A version of etcd that may read this file crashes or loses data.
    Error(String),
    /// etcd starts and loses nothing, or only some versions fail.
    Warning(String),
}

fn error(problem: impl Into<String>) -> Result<(), Problem> {
    Err(Problem::Error(problem.into()))
}

fn undecodable(what: &str, problem: &str) -> Problem {
    Problem::Error(format!("{what} that etcd cannot decode: {problem}"))
}

/// An entry of bucket `lease`: ID, TTL and RemainingTTL (etcd-io/etcd: `server/lease/leasepb/lease.proto`).
pub(super) fn lease(key: &[u8], value: &[u8]) -> Result<(), Problem> {
    let Ok(id) = <[u8; 8]>::try_from(key).map(i64::from_be_bytes) else {
        return error(format!("a lease id of {} bytes, expected 8", key.len()));
    };
    let numbers = wire::numbers(value).map_err(|problem| undecodable("a lease", problem))?;
    let [own_id, ttl_s, remaining_s] = numbers.map(u64::cast_signed);
    if own_id != id || id == 0 {
        return error(format!("lease {id:x}: its own id is {own_id:x}"));
    }
    if ttl_s > MAX_TTL_S || remaining_s > MAX_TTL_S {
        let longest = ttl_s.max(remaining_s);
        return error(format!(
            "lease {id:x}: it lasts {longest} s, expected at most {MAX_TTL_S} s: etcd would delete its keys at its start"
        ));
    }
    Ok(())
}

/// A key of bucket `alarm`: the member and the alarm (`AlarmMember` of `api/etcdserverpb/rpc.proto`).
pub(crate) fn alarm(key: &[u8]) -> Result<(u64, u64), Problem> {
    let [member, alarm] = wire::numbers(key).map_err(|problem| undecodable("an alarm", problem))?;
    Ok((member, alarm))
}

/// An entry of bucket `auth`.
pub(super) fn auth(key: &[u8], value: &[u8]) -> Result<(), Problem> {
    match key {
        b"authRevision" => match <[u8; 8]>::try_from(value).map(u64::from_be_bytes) {
            Ok(revision) if revision <= i64::MAX.cast_unsigned() => Ok(()),
            Ok(revision) => error(format!(
                "authRevision is {revision}, which is not a valid revision"
            )),
            Err(_) => error(format!(
                "authRevision has {} bytes, expected 8",
                value.len()
            )),
        },
        // With any other value than 1, etcd starts with authentication off and does not report it.
        b"authEnabled" if !matches!(value, [0 | 1]) => {
            error("authEnabled is neither 0 nor 1: etcd would start with authentication off")
        }
        _ => Ok(()),
    }
}

/// An entry of bucket `authUsers`.
pub(super) fn user(key: &[u8], value: &[u8]) -> Result<(), Problem> {
    let mut name: &[u8] = &[];
    let mut is_text = true;
    wire::read(value, USER, &mut |field, content| match (field, content) {
        (1, Content::Bytes(bytes)) => name = bytes,
        (3, Content::Bytes(bytes)) => is_text &= std::str::from_utf8(bytes).is_ok(),
        _ => {}
    })
    .map_err(|problem| undecodable("a user", problem))?;
    check_name(key, name, "user")?;
    if !is_text {
        return Err(Problem::Warning(
            "a user has a role whose name is not UTF-8: etcd 3.7 does not start with it".into(),
        ));
    }
    Ok(())
}

/// An entry of bucket `authRoles`.
pub(super) fn role(key: &[u8], value: &[u8]) -> Result<(), Problem> {
    let mut name: &[u8] = &[];
    wire::read(value, ROLE, &mut |field, content| {
        if let (1, Content::Bytes(bytes)) = (field, content) {
            name = bytes;
        }
    })
    .map_err(|problem| undecodable("a role", problem))?;
    check_name(key, name, "role")
}

fn check_name(key: &[u8], name: &[u8], what: &str) -> Result<(), Problem> {
    if key == name {
        return Ok(());
    }
    let (key, name) = (
        crate::finding::printable(key),
        crate::finding::printable(name),
    );
    error(format!("{what} \"{key}\": its own name is \"{name}\""))
}

/// A key of bucket `members` or `members_removed`: an id, as hex digits.
pub(super) fn member_id(key: &[u8]) -> Result<(), Problem> {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if (1..=16).contains(&key.len()) && key.iter().all(is_digit) && !key.starts_with(b"0") {
        return Ok(());
    }
    let key = crate::finding::printable(key);
    error(format!("\"{key}\" is not a member's id in hex digits"))
}

/// An entry of bucket `cluster`.
pub(super) fn cluster(key: &[u8], value: &[u8]) -> Result<(), Problem> {
    match key {
        b"clusterVersion" if !is_version(value, true) => {
            let value = crate::finding::printable(value);
            error(format!(
                "the cluster version is \"{value}\", expected one such as 3.6.0"
            ))
        }
        b"downgrade" => downgrade(value),
        _ => Ok(()),
    }
}

/// etcd-io/etcd: `server/etcdserver/version/downgrade.go`. Go ignores the case of names, and uses the last of duplicate names.
fn downgrade(value: &[u8]) -> Result<(), Problem> {
    let fields = match serde_json::from_slice(value) {
        Ok(Json::Null) => return Ok(()),
        Ok(Json::Object(fields)) => fields,
        _ => return error("the downgrade state is not the expected JSON"),
    };
    let (mut target, mut enabled) = (String::new(), false);
    for (name, value) in fields {
        match (name.to_lowercase().as_str(), value) {
            ("target-version", Json::String(version)) => target = version,
            ("enabled", Json::Bool(is)) => enabled = is,
            ("target-version" | "enabled", Json::Null) => {}
            ("target-version" | "enabled", _) => {
                return error(format!("the downgrade state: {name} has the wrong type"));
            }
            _ => {}
        }
    }
    if enabled && !is_version(target.as_bytes(), false) {
        return error(format!(
            "a downgrade to \"{}\" is in progress, but this is not a version",
            crate::finding::printable(target.as_bytes())
        ));
    }
    Ok(())
}

/// Checks the storage version in bucket `meta`. etcd treats an invalid one as missing.
pub(super) fn storage_version(value: &[u8]) -> Result<(), Problem> {
    if !is_version(value, false) {
        let value = crate::finding::printable(value);
        return Err(Problem::Warning(format!(
            "the storage version is \"{value}\", expected one such as 3.6.0: etcd treats it as missing"
        )));
    }
    let mut numbers = value.split(|byte| *byte == b'.');
    let (major, minor) = (numbers.next(), numbers.next());
    let old = matches!(minor, Some(b"0" | b"1" | b"2" | b"3" | b"4"));
    if major != Some(b"3") || old {
        let value = crate::finding::printable(value);
        return error(format!(
            "the storage version is {value}, expected 3.5.0 or a newer version of etcd 3"
        ));
    }
    Ok(())
}

/// Whether this is three numbers without leading zeros. With `of_etcd_3`, the first must be 3.
fn is_version(text: &[u8], of_etcd_3: bool) -> bool {
    const MAX_DIGITS: usize = 9;
    let is_number = |part: &[u8]| {
        (1..=MAX_DIGITS).contains(&part.len())
            && part.iter().all(u8::is_ascii_digit)
            && (part == b"0" || !part.starts_with(b"0"))
    };
    let parts: Vec<_> = text.split(|byte| *byte == b'.').collect();
    parts.len() == 3
        && parts.iter().all(|part| is_number(part))
        && !(of_etcd_3 && parts.first() != Some(&&b"3"[..]))
}
