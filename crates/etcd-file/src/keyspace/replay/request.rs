//! The requests in a log that change keys (etcd-io/etcd: `api/etcdserverpb/{raft_internal,rpc}.proto`).

use crate::raft::WalEntry;
use crate::wire::{self, Content, Field, numbers};

/// A log may have transactions within transactions. More levels than any client writes.
const MAX_DEPTH: usize = 32;

/// A request, as far as it matters for keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request<'b> {
    Put(Put<'b>),
    Delete(Range<'b>),
    Transaction(Transaction<'b>),
    GrantLease {
        id: i64,
        ttl_s: i64,
    },
    RevokeLease(i64),
    RaiseAlarm {
        member: u64,
        alarm: u64,
    },
    ClearAlarm {
        member: u64,
        alarm: u64,
    },
    EnableAuth,
    /// It changes no key.
    Other,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Put<'b> {
    pub(super) key: &'b [u8],
    pub(super) value: &'b [u8],
    pub(super) lease: i64,
    pub(super) keeps_value: bool,
    pub(super) keeps_lease: bool,
}

/// One key, or the keys up to `end`; all keys from `key` on if `end` is a zero byte.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range<'b> {
    pub(super) key: &'b [u8],
    pub(super) end: &'b [u8],
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Transaction<'b> {
    pub(super) compares: Vec<Compare<'b>>,
    pub(super) success: Vec<Operation<'b>>,
    pub(super) failure: Vec<Operation<'b>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Operation<'b> {
    Put(Put<'b>),
    Delete(Range<'b>),
    Transaction(Transaction<'b>),
    Nothing,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Compare<'b> {
    pub(super) result: u64,
    pub(super) target: u64,
    pub(super) range: Range<'b>,
    /// Which of the values below was sent.
    pub(super) given: u64,
    pub(super) number: i64,
    pub(super) value: &'b [u8],
}

impl Compare<'_> {
    pub(super) const EQUAL: u64 = 0;
    pub(super) const GREATER: u64 = 1;
    pub(super) const LESS: u64 = 2;
    pub(super) const NOT_EQUAL: u64 = 3;
    pub(super) const VERSION: u64 = 0;
    pub(super) const CREATED: u64 = 1;
    pub(super) const MODIFIED: u64 = 2;
    pub(super) const VALUE: u64 = 3;
    pub(super) const LEASE: u64 = 4;
}

/// `InternalRaftRequest`, as far as requests of clients go: its id, and messages.
const REQUEST: &[Field] = &{
    let mut fields = [Field::Bytes; 11];
    fields[0] = Field::Number;
    fields
};
const ENABLE_AUTH: u64 = 1000;
/// `Request` of the API of etcd 2, in which a member of 3.4 and 3.5 also publishes its name.
const OLD_REQUEST: &[Field] = &[
    Field::Number,
    Field::Bytes,
    Field::Bytes,
    Field::Bytes,
    Field::Number,
];

/// Reads an entry of a log.
pub(super) fn request(data: &[u8]) -> Result<Request<'_>, &'static str> {
    let mut found = Vec::new();
    let read = wire::read(data, REQUEST, &mut |field, content| {
        if let Content::Bytes(bytes) = content {
            found.push((field, bytes));
        }
    });
    if let Err(problem) = read {
        return match wire::read(data, OLD_REQUEST, &mut |_, _| {}) {
            Ok(()) => Ok(Request::Other),
            Err(_) => Err(problem),
        };
    }
    // etcd looks at the fields in this order, and takes the first.
    for (wanted, parse) in PARSERS {
        if let Some((_, bytes)) = found.iter().rev().find(|(field, _)| *field == wanted) {
            return parse(bytes);
        }
    }
    match wire::has_field(data, ENABLE_AUTH)? {
        true => Ok(Request::EnableAuth),
        false => Ok(Request::Other),
    }
}

/// Whether an entry of a log changes what a database has, so that its index shows whether the entry was applied. Entries about members,
/// empty ones and compactions may leave no trace.
#[must_use]
pub fn changes_data(entry: &WalEntry<'_>) -> bool {
    entry.is_request() && !entry.data.is_empty() && request(entry.data) != Ok(Request::Other)
}

type Parser = for<'b> fn(&'b [u8]) -> Result<Request<'b>, &'static str>;

const PARSERS: [(u64, Parser); 7] = [
    (4, |bytes| put(bytes).map(Request::Put)),
    (5, |bytes| range(bytes).map(Request::Delete)),
    (6, |bytes| transaction(bytes, 0).map(Request::Transaction)),
    // A compaction.
    (7, |_| Ok(Request::Other)),
    (8, |bytes| {
        // The time to live comes first.
        let [ttl_s, id] = numbers(bytes)?.map(u64::cast_signed);
        Ok(Request::GrantLease { id, ttl_s })
    }),
    (9, |bytes| {
        let [id] = numbers(bytes)?;
        Ok(Request::RevokeLease(id.cast_signed()))
    }),
    (10, |bytes| {
        let [action, member, alarm] = numbers(bytes)?;
        Ok(match action {
            1 => Request::RaiseAlarm { member, alarm },
            2 => Request::ClearAlarm { member, alarm },
            _ => Request::Other,
        })
    }),
];

fn put(bytes: &[u8]) -> Result<Put<'_>, &'static str> {
    const FIELDS: &[Field] = &[
        Field::Bytes,
        Field::Bytes,
        Field::Number,
        Field::Number,
        Field::Number,
        Field::Number,
    ];
    let mut put = Put::default();
    wire::read(
        bytes,
        FIELDS,
        &mut |field, content| match (field, content) {
            (1, Content::Bytes(key)) => put.key = key,
            (2, Content::Bytes(value)) => put.value = value,
            (3, Content::Number(lease)) => put.lease = lease.cast_signed(),
            (5, Content::Number(keeps)) => put.keeps_value = keeps != 0,
            (6, Content::Number(keeps)) => put.keeps_lease = keeps != 0,
            _ => {}
        },
    )?;
    Ok(put)
}

fn range(bytes: &[u8]) -> Result<Range<'_>, &'static str> {
    let mut range = Range::default();
    wire::read(
        bytes,
        &[Field::Bytes, Field::Bytes, Field::Number],
        &mut |field, content| match (field, content) {
            (1, Content::Bytes(key)) => range.key = key,
            (2, Content::Bytes(end)) => range.end = end,
            _ => {}
        },
    )?;
    Ok(range)
}

fn transaction(bytes: &[u8], depth: usize) -> Result<Transaction<'_>, &'static str> {
    if depth > MAX_DEPTH {
        return Err("a transaction within too many transactions");
    }
    let mut parts = Vec::new();
    wire::read(bytes, &[Field::Bytes; 3], &mut |field, content| {
        if let Content::Bytes(part) = content {
            parts.push((field, part));
        }
    })?;
    let mut transaction = Transaction::default();
    for (field, part) in parts {
        match field {
            1 => transaction.compares.push(compare(part)?),
            2 => transaction.success.push(operation(part, depth)?),
            3 => transaction.failure.push(operation(part, depth)?),
            _ => {}
        }
    }
    Ok(transaction)
}

fn operation(bytes: &[u8], depth: usize) -> Result<Operation<'_>, &'static str> {
    let mut last = None;
    wire::read(bytes, &[Field::Bytes; 4], &mut |field, content| {
        if let (1..=4, Content::Bytes(part)) = (field, content) {
            last = Some((field, part));
        }
    })?;
    match last {
        // A member that starts leaves reads out, but not those in a transaction within another.
        Some((1, part)) if depth > 0 && revision_of_read(part)? != 0 => {
            Err("a read of an earlier revision in a transaction within a transaction")
        }
        Some((2, part)) => put(part).map(Operation::Put),
        Some((3, part)) => range(part).map(Operation::Delete),
        Some((4, part)) => transaction(part, depth + 1).map(Operation::Transaction),
        _ => Ok(Operation::Nothing),
    }
}

fn revision_of_read(bytes: &[u8]) -> Result<u64, &'static str> {
    const FIELDS: &[Field] = &[Field::Bytes, Field::Bytes, Field::Number, Field::Number];
    let mut revision = 0;
    wire::read(bytes, FIELDS, &mut |field, content| {
        if let (4, Content::Number(number)) = (field, content) {
            revision = number;
        }
    })?;
    Ok(revision)
}

fn compare(bytes: &[u8]) -> Result<Compare<'_>, &'static str> {
    const RANGE_END: usize = 64;
    static FIELDS: [Field; RANGE_END] = {
        let mut fields = [Field::Bytes; RANGE_END];
        // The result, the target, and all values but one are numbers.
        fields[0] = Field::Number;
        fields[1] = Field::Number;
        fields[3] = Field::Number;
        fields[4] = Field::Number;
        fields[5] = Field::Number;
        fields[7] = Field::Number;
        fields
    };
    let mut compare = Compare::default();
    wire::read(
        bytes,
        &FIELDS,
        &mut |field, content| match (field, content) {
            (1, Content::Number(result)) => compare.result = result,
            (2, Content::Number(target)) => compare.target = target,
            (3, Content::Bytes(key)) => compare.range.key = key,
            (4..=6 | 8, Content::Number(number)) => {
                compare.given = match field {
                    4 => Compare::VERSION,
                    5 => Compare::CREATED,
                    6 => Compare::MODIFIED,
                    _ => Compare::LEASE,
                };
                compare.number = number.cast_signed();
                compare.value = &[];
            }
            (7, Content::Bytes(value)) => {
                compare.given = Compare::VALUE;
                compare.value = value;
                compare.number = 0;
            }
            (64, Content::Bytes(end)) => compare.range.end = end,
            _ => {}
        },
    )?;
    Ok(compare)
}
