use std::{
    fs,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use agirails::{ACTPClient, Code, Error, KeyEnvironment, Password, PrivateKey, Result};

use crate::{
    failure::{DONE, INTERRUPTED},
    output::print,
};

/// Encrypt a private key with a password, as mainnet requires it (AIP-13).
///
/// The key is asked for, or read from the first line of standard input; so is the password, where
/// ACTP_KEY_PASSWORD does not hold it. Neither is ever shown.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A client finds the file at .actp/keystore.json of its state directory, or as `keystore`, \
    and needs the password with it: ACTP_KEY_PASSWORD, or `keystore_password`. Keep a copy of the key elsewhere: \
    nobody can restore it without the password.\n\n\
    Example:\n  agirails keystore --output key.json"
)]
pub struct Keystore {
    /// What to write, never over another file: .actp/keystore.json of the state directory
    /// (ACTP_STATE_DIR, else the working directory) where it is left out
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Keystore {
    pub async fn run(self) -> Result<u8> {
        let written = super::aside(move || Ok(write(self.output.as_deref()))).await?;
        match written {
            Ok(line) => print(&line).map(|()| DONE),
            Err(Stop::Interrupted) => {
                let _ = writeln!(io::stderr());
                Ok(INTERRUPTED)
            }
            Err(Stop::Refused(error)) => Err(error),
        }
    }
}

/// Why nothing was written.
enum Stop {
    /// Ctrl-C at a prompt, which is typed there and no signal.
    Interrupted,
    Refused(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

fn write(output: Option<&Path>) -> Result<String, Stop> {
    let path = match output {
        Some(path) => path.to_owned(),
        None => ACTPClient::builder().directory().join(".actp").join("keystore.json"),
    };
    let shown = path.display();
    if path.exists() {
        let hint = "name another file with --output, or remove it";
        return Err(refused(format!("{shown} exists already"), hint).into());
    }
    let key = secret("Private key: ")?;
    if key.as_str().is_empty() {
        let hint = "type it, or pass it on standard input";
        return Err(refused("no private key was given".to_owned(), hint).into());
    }
    let key: PrivateKey = key.as_str().parse()?;
    let password = match KeyEnvironment::read()?.password {
        Some(password) => password,
        None => new_password()?,
    };
    if password.as_str().is_empty() {
        let hint = "choose one that nobody guesses";
        return Err(refused("the password is empty".to_owned(), hint).into());
    }
    let keystore = key.to_keystore(password.as_str())?;
    let written = match (output, path.parent()) {
        (None, Some(directory)) => create_directory(directory),
        _ => Ok(()),
    };
    written.and_then(|()| write_new(&path, &keystore)).map_err(|error| {
        let hint = "name a new file in a directory that exists";
        refused(format!("{shown} cannot be written: {error}"), hint).with_source(error)
    })?;
    Ok(format!("the key of {} is in {shown}\n", key.address()))
}

/// For its owner alone.
fn create_directory(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(directory)
}

/// Readable for its owner only from the first byte on, and never in place of another one.
fn write_new(path: &Path, keystore: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.write(true).create_new(true).open(path)?;
    file.write_all(format!("{keystore}\n").as_bytes())?;
    file.sync_all()
}

fn new_password() -> Result<Password, Stop> {
    let password = secret("Password: ")?;
    if io::stdin().is_terminal() && secret("Password again: ")?.as_str() != password.as_str() {
        return Err(refused("the passwords differ".to_owned(), "type the same one twice").into());
    }
    Ok(password)
}

/// A line of standard input where nobody sits before it.
fn secret(prompt: &str) -> Result<Password, Stop> {
    let read = if io::stdin().is_terminal() {
        rpassword::prompt_password(prompt).map(|text| Password::from(text.trim()))
    } else {
        let mut line = String::new();
        let read = io::stdin().read_line(&mut line);
        let length = line.trim_end_matches(['\r', '\n']).len();
        line.truncate(length);
        read.map(|_| Password::from(line))
    };
    read.map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => Stop::Interrupted,
        _ => {
            let hint = "type it, or pass it on standard input as text";
            refused(format!("it cannot be read: {error}"), hint).into()
        }
    })
}

fn refused(problem: String, hint: &str) -> Error {
    Error::new(Code::InvalidSettings, problem).with_hint(hint)
}
