//! Goal: an exported trace means the same to programs that know nothing of it. Method: DuckDB and Polars print every
//! row and every column's type, and both are compared with what was traced. Needs `python3` (or what PAGESWARM_PYTHON
//! names) with their packages; where one is missing, a line says SKIP.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use crate::accesses;
use pageswarm_sim::trace::query::ALL_INSTRUCTIONS;
use pageswarm_sim::trace::{Trace, Values, export};
use pageswarm_sim::{Access, AccessKind};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;

const DUCKDB: &str = "
import duckdb, sys
table = duckdb.sql(f\"SELECT * FROM read_parquet('{sys.argv[1]}')\")
print(*(f'{name}:{kind}' for name, kind in zip(table.columns, table.types)))
for row in table.fetchall():
    print(*(int(cell) for cell in row))
";

const POLARS: &str = "
import polars, sys
table = polars.read_parquet(sys.argv[1])
print(*(f'{name}:{kind}' for name, kind in table.schema.items()))
for row in table.iter_rows():
    print(*(int(cell) for cell in row))
";

const NAMES: [&str; 8] =
    ["instruction", "rip", "virtual_address", "physical_address", "size", "is_write", "value", "value_high"];

/// What a program prints, or why it cannot be asked.
fn printed(package: &str, script: &str, file: &Path) -> Result<String, String> {
    let python = std::env::var_os("PAGESWARM_PYTHON").unwrap_or_else(|| OsString::from("python3"));
    let has_it = Command::new(&python).args(["-I", "-c", &format!("import {package}")]).output();
    match has_it {
        Err(error) => return Err(format!("{}: {error}", python.display())),
        Ok(output) if !output.status.success() => return Err(format!("python has no package {package}")),
        Ok(_) => {}
    }
    let output = Command::new(&python).args(["-I", "-c", script]).arg(file).output().unwrap();
    assert!(output.status.success(), "{package}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout).unwrap())
}

/// What a program should print whose types for numbers, sizes and truths are `types`.
fn expected(accesses: &[Access], types: [&str; 3], columns: usize) -> String {
    let [number, size, truth] = types;
    let types = [number, number, number, number, size, truth, number, number];
    let named: Vec<String> =
        NAMES.iter().zip(types).take(columns).map(|(name, kind)| format!("{name}:{kind}")).collect();
    let mut text = named.join(" ") + "\n";
    for access in accesses {
        let Access { instruction, rip, virtual_address, physical_address, size, kind, value } = access;
        let is_write = u8::from(*kind == AccessKind::Write);
        write!(text, "{instruction} {rip} {virtual_address} {physical_address} {size} {is_write}").unwrap();
        if columns == NAMES.len() {
            write!(text, " {} {}", value & u128::from(u64::MAX), value >> 64).unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn duckdb_and_polars_read_exported_traces() {
    let directory = tempfile::tempdir().unwrap();
    // The last one has numbers that need all 64 bits.
    let mut traced: Vec<Access> = accesses::some(2000);
    let last = traced[1999];
    traced.push(Access { rip: u64::MAX, virtual_address: 0xffff_8000_0000_0000, ..last });
    for (values, columns) in [(Values::Kept, 8), (Values::Omitted, 6)] {
        let path = directory.path().join(format!("{columns}.parquet"));
        let mut trace = Trace::open(Cursor::new(accesses::write(&traced, values).output)).unwrap();
        let exported = export(&mut trace, &ALL_INSTRUCTIONS, Vec::new()).unwrap();
        assert_eq!(exported.accesses, 2001);
        std::fs::write(&path, exported.output).unwrap();
        for (package, script, types) in [
            ("duckdb", DUCKDB, ["UBIGINT", "UTINYINT", "BOOLEAN"]),
            ("polars", POLARS, ["UInt64", "UInt8", "Boolean"]),
        ] {
            match printed(package, script, &path) {
                Ok(text) => assert!(text == expected(&traced, types, columns), "{package} says:\n{text}"),
                Err(why) => println!("SKIP: plain traces, {package}: {why}"),
            }
        }
    }
}
