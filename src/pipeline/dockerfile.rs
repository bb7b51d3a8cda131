//! The Dockerfile's bytes → the parsed file, unless it is in a language of its own.

use crate::parser::{self, Diagnostic, Dockerfile};
use crate::planner::{PlanErrors, PlanOptions, check_frontend};

/// Reads the Dockerfile.
///
/// # Errors
/// A foreign frontend, or all that is malformed.
pub(super) fn read<E>(bytes: &[u8], options: &PlanOptions) -> Result<Dockerfile, E>
where
    E: From<PlanErrors> + From<Vec<Diagnostic>>,
{
    check_frontend(bytes, options)?;
    Ok(parser::parse(bytes)?)
}
