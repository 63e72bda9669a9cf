//! Which key a client signs with, and which keys a network lets it use (AIP-13).

use std::{
    env, fmt,
    path::{Path, PathBuf},
    sync::Once,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use k256::elliptic_curve::zeroize::Zeroizing;

use super::{Password, PrivateKey, Protection, keystore::naming};
use crate::{
    error::{Code, Error, Result, shown_path},
    network::Mode,
};

/// The environment variable with a private key in the clear. Mainnet refuses it.
pub const PRIVATE_KEY_VARIABLE: &str = "ACTP_PRIVATE_KEY";
/// The environment variable with a keystore in base64.
pub const KEYSTORE_VARIABLE: &str = "ACTP_KEYSTORE_BASE64";
/// The environment variable with the password of that keystore, or of `.actp/keystore.json`.
pub const KEY_PASSWORD_VARIABLE: &str = "ACTP_KEY_PASSWORD";

const MAKE_A_KEYSTORE: &str = "make a keystore once with PrivateKey::to_keystore (or geth, or Foundry's \
                               `cast wallet import`), then pass it as `keystore` with its password, \
                               or set ACTP_KEYSTORE_BASE64 and ACTP_KEY_PASSWORD";

/// How a client without key comes to one.
pub(crate) const NO_KEY_HINT: &str = "pass `keystore` with its password when the client is made, or set ACTP_KEYSTORE_BASE64 and \
     ACTP_KEY_PASSWORD, or put a keystore at .actp/keystore.json of the state directory; on testnet \
     `private_key` and ACTP_PRIVATE_KEY do too";

/// What the environment says about keys. `Debug` tells which variables are set, never to what.
#[derive(Default, Clone)]
pub struct KeyEnvironment {
    /// `ACTP_PRIVATE_KEY`.
    pub private_key: Option<Password>,
    /// `ACTP_KEYSTORE_BASE64`.
    pub keystore_base64: Option<String>,
    /// `ACTP_KEY_PASSWORD`.
    pub password: Option<Password>,
}

impl KeyEnvironment {
    /// Reads the three variables; an empty one counts as not set.
    ///
    /// # Errors
    /// [`Code::InvalidSettings`] where one is not UTF-8, naming the variable.
    pub fn read() -> Result<Self> {
        Ok(Self {
            private_key: variable(PRIVATE_KEY_VARIABLE)?.map(Password::from),
            keystore_base64: variable(KEYSTORE_VARIABLE)?,
            password: variable(KEY_PASSWORD_VARIABLE)?.map(Password::from),
        })
    }
}

impl fmt::Debug for KeyEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyEnvironment")
            .field("private_key", &self.private_key)
            .field("keystore_base64", &self.keystore_base64.is_some())
            .field("password", &self.password)
            .finish()
    }
}

fn variable(name: &'static str) -> Result<Option<String>> {
    match env::var(name) {
        Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => {
            Err(Error::new(Code::InvalidSettings, format!("{name} is not UTF-8"))
                .with_hint("set the variable anew, or unset it")
                .with_facts(|facts| facts.field = Some(name)))
        }
    }
}

/// Where a client's key may come from, in the order in which they are asked.
#[derive(Debug, Clone, Default)]
pub struct KeySources {
    /// A key that was passed. It goes before everything.
    pub private_key: Option<PrivateKey>,
    /// A keystore's file that was passed, and its password. Not beside a key.
    pub keystore: Option<(PathBuf, Password)>,
    /// Then `ACTP_PRIVATE_KEY`, then `ACTP_KEYSTORE_BASE64` with `ACTP_KEY_PASSWORD`.
    pub environment: KeyEnvironment,
    /// Then `.actp/keystore.json` below this directory, with `ACTP_KEY_PASSWORD`.
    pub state_directory: Option<PathBuf>,
}

/// A key that may be used, and where it was found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ResolvedKey {
    /// The key.
    pub key: PrivateKey,
    /// Where it was found, for messages.
    pub source: String,
    /// What its owner should know about it.
    pub warning: Option<String>,
}

/// Finds the key that a client of this network signs with, and checks that it may: the key that
/// was passed, else the keystore that was passed, else `ACTP_PRIVATE_KEY`, else
/// `ACTP_KEYSTORE_BASE64` with `ACTP_KEY_PASSWORD`, else `.actp/keystore.json` with
/// `ACTP_KEY_PASSWORD`; `None` where there is none of them. The first one that is there counts:
/// where it cannot be used, the next one is not asked.
///
/// A key in the clear is taken silently on mock, with a warning on testnet (once per process in
/// the log, always in [`ResolvedKey::warning`]), and not at all on mainnet. So is one from a
/// keystore with an empty password, or whose password can be guessed fast (scrypt below n·r·p =
/// 65,536, PBKDF2 below 100,000 rounds). A keystore's file that others can write is warned of.
///
/// A keystore is opened on tokio's threads for blocking work; without tokio, where it is called.
///
/// # Errors
/// [`Code::KeyNotAllowed`] for a key in the clear, or in a weak keystore, on mainnet; [`Code::InvalidPrivateKey`] where
/// `ACTP_PRIVATE_KEY` is none; [`Code::InvalidKeystore`] and [`Code::WrongPassword`] as
/// [`PrivateKey::from_keystore`]; [`Code::InvalidSettings`] where a keystore has no password
/// beside it, or both a key and a keystore were passed.
///
/// ```
/// use agirails::{Code, KeySources, Mode, PrivateKey, resolve_key};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// // A published test key: never fund it.
/// let key: PrivateKey = format!("{:064x}", 1).parse()?;
/// let sources = KeySources { private_key: Some(key), ..KeySources::default() };
///
/// let found = resolve_key(Mode::Testnet, sources.clone()).await?.unwrap();
/// assert!(found.warning.is_some());
/// let error = resolve_key(Mode::Mainnet, sources).await.unwrap_err();
/// assert_eq!(error.code(), Code::KeyNotAllowed);
/// # Ok::<(), agirails::Error>(())
/// # })?;
/// # Ok::<(), agirails::Error>(())
/// ```
///
/// Source: AIP-13.
pub async fn resolve_key(mode: Mode, sources: KeySources) -> Result<Option<ResolvedKey>> {
    let KeySources { private_key, keystore, environment, state_directory } = sources;
    match (private_key, keystore) {
        (Some(_), Some(_)) => {
            return Err(Error::new(
                Code::InvalidSettings,
                "both a private key and a keystore were passed",
            )
            .with_hint("pass one of them"));
        }
        (Some(key), None) => return found(mode, key, "the private key that was passed").map(Some),
        (None, Some((path, password))) => return open_file(mode, path, password).await.map(Some),
        (None, None) => {}
    }
    if let Some(text) = environment.private_key {
        // Before it is read: what is no key is no better on mainnet.
        admit_raw(mode, PRIVATE_KEY_VARIABLE)?;
        let key = text.as_str().trim_ascii().parse::<PrivateKey>();
        let key = key.map_err(|error| naming(&error, PRIVATE_KEY_VARIABLE))?;
        return found(mode, key, PRIVATE_KEY_VARIABLE).map(Some);
    }
    if let Some(text) = environment.keystore_base64 {
        let password = environment.password.ok_or_else(|| no_password(KEYSTORE_VARIABLE))?;
        let key = aside(move || {
            let keystore = decode(&text)?;
            PrivateKey::from_keystore(&keystore, password.as_str())
                .map_err(|error| naming(&error, KEYSTORE_VARIABLE))
        });
        return found(mode, key.await?, KEYSTORE_VARIABLE).map(Some);
    }
    let file = state_directory.map(|directory| directory.join(".actp").join("keystore.json"));
    // Also what cannot be looked at is there: to pass over it would be to sign with nothing.
    let Some(path) = file.filter(|path| !matches!(path.try_exists(), Ok(false))) else {
        return Ok(None);
    };
    let password = environment
        .password
        .ok_or_else(|| no_password(&format!("the keystore {}", shown_path(&path))))?;
    open_file(mode, path, password).await.map(Some)
}

async fn open_file(mode: Mode, path: PathBuf, password: Password) -> Result<ResolvedKey> {
    let shown = shown_path(&path);
    let exposed = is_exposed(&path).then(|| {
        format!(
            "the keystore {shown} can be written by others, who could put another in its place: \
             chmod 600, in a directory that is yours alone"
        )
    });
    if let Some(warning) = &exposed {
        tracing::warn!("{warning}");
    }
    let key = aside(move || PrivateKey::from_keystore_file(path, password.as_str())).await?;
    let mut found = found(mode, key, format!("the keystore {shown}"))?;
    let warnings: Vec<_> = exposed.into_iter().chain(found.warning).collect();
    found.warning = (!warnings.is_empty()).then(|| warnings.join("; "));
    Ok(found)
}

/// Whether somebody else can change this file, or put another in its place.
#[cfg(unix)]
fn is_exposed(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    const OTHERS_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let is_open = |mode: u32| mode & OTHERS_WRITE != 0;
    let file = path.metadata().is_ok_and(|file| is_open(file.mode()));
    // In a sticky directory, such as /tmp, nobody replaces what is another's.
    let place =
        directory.metadata().is_ok_and(|place| is_open(place.mode()) && place.mode() & STICKY == 0);
    file || place
}

/// Other systems' permissions are not looked at.
#[cfg(not(unix))]
fn is_exposed(_path: &Path) -> bool {
    false
}

fn found(mode: Mode, key: PrivateKey, source: impl Into<String>) -> Result<ResolvedKey> {
    let source = source.into();
    let warning = admit(mode, &key, &source)?;
    Ok(ResolvedKey { key, source, warning })
}

/// Whether this network takes such a key, and what to tell its owner.
pub(crate) fn admit(mode: Mode, key: &PrivateKey, source: &str) -> Result<Option<String>> {
    match (key.protection, mode) {
        (Protection::InTheClear, mode) => admit_raw(mode, source),
        (Protection::Keystore, _) | (_, Mode::Mock) => Ok(None),
        (Protection::Weak(problem), Mode::Testnet) => {
            Ok(Some(format!("{source} {problem}; mainnet refuses it: {MAKE_A_KEYSTORE}")))
        }
        (Protection::Weak(problem), Mode::Mainnet) => Err(Error::new(
            Code::KeyNotAllowed,
            format!("mainnet takes no keystore that {problem}: {source}"),
        )
        .with_hint(
            "make the keystore anew with a long password: `agirails keystore`, or \
             PrivateKey::to_keystore",
        )),
    }
}

fn admit_raw(mode: Mode, source: &str) -> Result<Option<String>> {
    match mode {
        Mode::Mock => Ok(None),
        Mode::Testnet => {
            static WARN: Once = Once::new();
            let warning = format!(
                "a private key in the clear ({source}) signs on testnet; mainnet refuses it, and whoever \
                 reads it has its money: {MAKE_A_KEYSTORE}"
            );
            WARN.call_once(|| tracing::warn!("{warning}"));
            Ok(Some(warning))
        }
        Mode::Mainnet => Err(Error::new(
            Code::KeyNotAllowed,
            format!("mainnet takes no private key in the clear: {source}"),
        )
        .with_hint(MAKE_A_KEYSTORE)),
    }
}

fn no_password(source: &str) -> Error {
    let message = format!("there is no password for {source}");
    Error::new(Code::InvalidSettings, message)
        .with_hint("set ACTP_KEY_PASSWORD to the password that the keystore was made with")
        .with_facts(|facts| facts.field = Some(KEY_PASSWORD_VARIABLE))
}

/// Base64 as tools print it: in lines, with or without one at the end.
fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>> {
    let text: String = text.split_ascii_whitespace().collect();
    BASE64_STANDARD.decode(text).map(Zeroizing::new).map_err(|_| {
        Error::new(Code::InvalidKeystore, format!("{KEYSTORE_VARIABLE} must be base64"))
            .with_hint("set it to the keystore's file in base64: `base64 < .actp/keystore.json`")
            .with_facts(|facts| facts.field = Some(KEYSTORE_VARIABLE))
    })
}

/// What computes for a second must not hold up the tasks beside it.
async fn aside(open: impl FnOnce() -> Result<PrivateKey> + Send + 'static) -> Result<PrivateKey> {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return open();
    };
    runtime.spawn_blocking(open).await.unwrap_or_else(|error| {
        let message = "the keystore was not opened: the runtime is shutting down";
        Err(Error::new(Code::Internal, message)
            .with_hint("connect before the runtime is shut down")
            .with_source(error))
    })
}
