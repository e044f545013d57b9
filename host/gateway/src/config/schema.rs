//! The JSON Schema of the configuration file, for editors. Committed as `schema/wharf.schema.json`; a test holds the two
//! together, and `wharf config schema` prints it.

use super::file::File;
use schemars::generate::SchemaSettings;

/// The schema as text, ready to be written to a file.
pub fn text() -> String {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<File>();
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}
