//! A call of a service, as it is written on the command line.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use agirails::{Code, Error, Result, Usdc, consumer::PaidCall};

use crate::parse::{self, Header};

/// What is called.
#[derive(Debug, Clone, clap::Args)]
pub struct Request {
    /// The service's URL
    #[arg(value_name = "URL")]
    url: String,
    /// The method: GET, or POST with a body, where it is left out
    #[arg(short = 'X', long = "request", value_name = "METHOD")]
    method: Option<String>,
    /// A header; @FILE reads one from each line of a file, which keeps secrets off the command line
    #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = parse::header)]
    headers: Vec<Header>,
    /// The body; @FILE reads a file, and - the standard input. JSON gets its content type
    #[arg(short = 'd', long, value_name = "DATA")]
    data: Option<String>,
    /// Trust a provider, by its address or its service's origin, with money that could not be taken
    /// back; repeat it for more
    #[arg(long, value_name = "WHOM", value_parser = parse::trusted)]
    pub trust: Vec<String>,
    /// For how long calls must be possible with a bundle, such as 7days: what the service says where
    /// it is left out
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    lasts: Option<Duration>,
}

impl Request {
    /// The call, which may cost so much. What it is sent with is read.
    ///
    /// # Errors
    /// [`Code::InvalidSettings`] for a file that cannot be read.
    pub fn call(&self, max: Usdc) -> Result<PaidCall> {
        let body = self.data.as_deref().map(read_body).transpose()?;
        let method = match (&self.method, &body) {
            (Some(method), _) => method,
            (None, Some(_)) => "POST",
            (None, None) => "GET",
        };
        let mut call = PaidCall::new(method, &self.url, max);
        let mut has_type = false;
        for header in &self.headers {
            for (name, value) in pairs(header)? {
                has_type |= name.eq_ignore_ascii_case("content-type");
                call = call.header(name, value);
            }
        }
        if let Some(body) = body {
            if !has_type && serde_json::from_slice::<serde_json::Value>(&body).is_ok() {
                call = call.header("Content-Type", "application/json");
            }
            call = call.body(body);
        }
        if let Some(lasts) = self.lasts {
            call = call.lasts(lasts);
        }
        Ok(call)
    }
}

fn read_body(data: &str) -> Result<Vec<u8>> {
    match data.strip_prefix('@') {
        Some(path) => fs::read(path).map_err(|error| unreadable(Path::new(path), &error)),
        None if data == "-" => {
            let mut body = vec![];
            let read = io::stdin().read_to_end(&mut body);
            read.map_err(|error| unreadable(Path::new("the standard input"), &error))?;
            Ok(body)
        }
        None => Ok(data.as_bytes().to_vec()),
    }
}

fn pairs(header: &Header) -> Result<Vec<(String, String)>> {
    let path: &PathBuf = match header {
        Header::Pair(name, value) => return Ok(vec![(name.clone(), value.clone())]),
        Header::File(path) => path,
    };
    let text = fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| match parse::header(line) {
            Ok(Header::Pair(name, value)) => Ok((name, value)),
            _ => {
                let message = format!("{} has a line that is no header", path.display());
                Err(Error::new(Code::InvalidSettings, message)
                    .with_hint("write 'Name: value' on each line"))
            }
        })
        .collect()
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::new(Code::InvalidSettings, format!("{} cannot be read: {error}", path.display()))
        .with_hint("name a file that can be read; nothing was sent")
}
