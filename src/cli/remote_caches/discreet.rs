//! Arguments that may have keys in them: what is wrong with one is told without repeating it.

use std::ffi::OsStr;
use std::marker::PhantomData;
use std::str::FromStr;

use clap::builder::{TypedValueParser, ValueParserFactory};
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};

use super::{CacheDestination, CacheSource};

/// Reads an argument.
pub struct Discreet<T>(PhantomData<fn() -> T>);

impl<T> Clone for Discreet<T> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<T> TypedValueParser for Discreet<T>
where
    T: FromStr<Err = String> + Clone + Send + Sync + 'static,
{
    type Value = T;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        let text = value
            .to_str()
            .ok_or_else(|| Error::new(ErrorKind::InvalidUtf8).with_cmd(command))?;
        text.parse().map_err(|reason| {
            let argument = argument
                .map(|argument| format!(" for '{argument}'"))
                .unwrap_or_default();
            let message = format!("invalid value{argument}: {reason}\n");
            Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        })
    }
}

impl ValueParserFactory for CacheSource {
    type Parser = Discreet<Self>;

    fn value_parser() -> Self::Parser {
        Discreet(PhantomData)
    }
}

impl ValueParserFactory for CacheDestination {
    type Parser = Discreet<Self>;

    fn value_parser() -> Self::Parser {
        Discreet(PhantomData)
    }
}
