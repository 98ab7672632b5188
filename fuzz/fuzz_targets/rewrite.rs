//! Any bytes as a database that is changed: what can be changed is whole afterwards, and has the same other keys.
#![no_main]

use etcd_file::bolt::{Bolt, Entries, Entry, Rewrite, Visitor, check};
use etcd_file::finding::Findings;
use etcd_file::new_cluster::{Changes, change, facts};
use etcd_file::Failure;
use etcd_file::membership::Member;
use etcd_lifeboat_fuzz::fix_checksums;
use libfuzzer_sys::fuzz_target;
use std::ops::ControlFlow;

struct Nothing;

impl Visitor for Nothing {
    fn bucket(&mut self, _: &[u8]) {}

    fn entry(&mut self, _: Entry<'_>) -> Result<(), Failure> {
        Ok(())
    }
}

fn errors(file: &Vec<u8>) -> Option<u64> {
    let bolt = Bolt::open(file).ok()?;
    let mut findings = Findings::default();
    check(&bolt, &mut Nothing, &mut findings, &mut |_| ControlFlow::Continue(())).ok()?;
    Some(findings.errors())
}

fuzz_target!(|data: &[u8]| {
    let mut file = data.to_vec();
    fix_checksums(&mut file);
    let Ok(bolt) = Bolt::open(&file) else {
        return;
    };
    let Ok(mut rewrite) = Rewrite::of(&bolt) else {
        return;
    };
    let _ = facts(&rewrite);
    let before: Option<Entries> = rewrite.read(b"lease").ok();
    let keys: Option<Entries> = rewrite.read(b"key").ok();
    let members = vec![Member::new("a", vec!["http://a:1".into()], "t")];
    let changes = Changes {
        members: Some(members),
        revision: Some(1 << 60),
    };
    if change(&mut rewrite, &changes).is_err() {
        return;
    }
    let Ok(rewritten) = rewrite.finish() else {
        return;
    };
    let mut changed = file[..rewritten.old_bytes as usize].to_vec();
    changed.extend(&rewritten.pages);
    changed[..rewritten.metas.len()].copy_from_slice(&rewritten.metas);
    if errors(&file) != Some(0) {
        return;
    }
    assert_eq!(errors(&changed), Some(0), "the changed file is damaged");
    let bolt = Bolt::open(&changed).expect("it was written");
    let rewrite = Rewrite::of(&bolt).expect("it was written");
    assert_eq!(rewrite.read(b"lease").ok(), before);
    if let Some(mut keys) = keys {
        let (last, value) = rewrite.read(b"key").expect("it was written").pop_last().expect("the bump");
        keys.insert(last, value);
        assert_eq!(rewrite.read(b"key").ok(), Some(keys));
    }
});
