//! Any text as an environment file: what is read is names with values that were in it.
#![no_main]

use backup_plan::platform::environment_file::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let found = parse(text);
    let bytes: usize = found.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(bytes <= text.len());
    for (name, value) in &found {
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
        // In single quotes everything is as it is.
        if !value.contains('\'') {
            let quoted = format!("{name}='{value}'\n");
            assert_eq!(parse(&quoted), [(name.clone(), value.clone())]);
        }
    }
});
