//! Keystores: a private key in a JSON file, encrypted with a password.
//!
//! Written here on the RustCrypto crates: `eth-keystore` reads files only, asks for as much
//! memory as the file names, leaves keys behind in it, and stands on a scrypt that refuses
//! N = 2^18 with r = 1, which eth-account used to write.
//!
//! Source: the Web3 Secret Storage Definition, version 3.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use aes::Aes128;
use alloy_primitives::{Address, hex, keccak256};
use ctr::{
    Ctr128BE,
    cipher::{KeyIvInit, StreamCipher},
};
use k256::elliptic_curve::{subtle::ConstantTimeEq, zeroize::Zeroizing};
use serde_json::{Value, json};
use sha2::Sha256;

use super::{PrivateKey, Protection};
use crate::error::{Code, Error, Result, shown_path};

/// A keystore has less than a kilobyte; more is no keystore, whatever it is.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// Twice what the strongest usual setting takes (N = 2^18, r = 8: 256 MiB).
const MAX_SCRYPT_BYTES: u64 = 512 * 1024 * 1024;
/// Four times the work of that setting, some seconds.
const MAX_SCRYPT_WORK: u64 = 1 << 23;
/// Ten times what the usual tools write, some seconds.
const MAX_PBKDF2_ROUNDS: u32 = 10_000_000;

/// The least work that mainnet takes, N·r·p: what Foundry writes. Below it a password of some
/// characters is found in an hour.
const LEAST_SCRYPT_WORK: u64 = 1 << 16;
/// The same for PBKDF2; the usual tools write 262,144 and more.
const LEAST_PBKDF2_ROUNDS: u32 = 100_000;

/// The setting that new keystores get, which geth calls the standard: 256 MiB, about a second.
const SCRYPT_LOG_N: u8 = 18;
const SCRYPT_R: u32 = 8;
const SCRYPT_P: u32 = 1;

const HINT: &str = "a keystore is the JSON of an encrypted key (Web3 Secret Storage, version 3), as \
                    PrivateKey::to_keystore, geth, Foundry or ethers write it";

type Secret<const N: usize> = Zeroizing<[u8; N]>;

impl PrivateKey {
    /// Opens a keystore: decrypts the private key in this JSON (Web3 Secret Storage, version 3)
    /// with its password.
    ///
    /// The password is taken byte for byte as UTF-8. This computes for about a second and takes
    /// up to 512 MiB meanwhile, as the keystore demands: in async code let
    /// [`crate::ClientBuilder::keystore`] or `tokio::task::spawn_blocking` call it.
    ///
    /// # Errors
    /// [`Code::WrongPassword`] where the password does not fit, and for a keystore whose
    /// ciphertext was damaged, which looks the same. [`Code::InvalidKeystore`] where it is no
    /// keystore, where it is encrypted in another way than the standard's, and where it demands
    /// more memory or work than any honest one. No error shows anything of the file's content
    /// but the names and numbers of its settings.
    ///
    /// ```
    /// use agirails::{Code, PrivateKey};
    ///
    /// // A published test key: never fund it.
    /// let key: PrivateKey = format!("{:064x}", 1).parse()?;
    /// let keystore = key.to_keystore("correct horse")?;
    /// let opened = PrivateKey::from_keystore(&keystore, "correct horse")?;
    /// assert_eq!(opened.address(), key.address());
    /// # Ok::<(), agirails::Error>(())
    /// ```
    ///
    /// Source: Web3 Secret Storage Definition, version 3; AIP-13.
    pub fn from_keystore(keystore: impl AsRef<[u8]>, password: &str) -> Result<Self> {
        // No source: serde's errors quote the text, which may be a key that lies there in the clear.
        let file: Value = serde_json::from_slice(keystore.as_ref())
            .map_err(|error| refuse(format!("must be JSON (line {})", error.line())))?;
        Keystore::read(&file)?.open(password.as_bytes())
    }

    /// [`Self::from_keystore`] of a file.
    ///
    /// # Errors
    /// As [`Self::from_keystore`], and [`Code::InvalidKeystore`] where the file cannot be read.
    /// Each names the path.
    pub fn from_keystore_file(path: impl AsRef<Path>, password: &str) -> Result<Self> {
        let path = path.as_ref();
        let text = read_file(path).map_err(|error| {
            let problem = format!("cannot be read: {error}: {}", shown_path(path));
            refuse(problem).with_source(error)
        })?;
        Self::from_keystore(&text, password).map_err(|error| naming(&error, &shown_path(path)))
    }

    /// Encrypts this key with a password: the JSON of a keystore, which [`Self::from_keystore`]
    /// and the usual tools open (scrypt with N = 2^18, r = 8, p = 1; AES-128-CTR).
    ///
    /// Write it where only its owner reads it (mode 0600): `.actp/keystore.json` of the state
    /// directory, or in base64 into `ACTP_KEYSTORE_BASE64`. It names the key's address. Like
    /// opening, this computes for about a second.
    ///
    /// # Errors
    /// [`Code::InvalidSettings`] for an empty password; [`Code::Internal`] where the operating
    /// system gives no random bytes.
    ///
    /// Source: Web3 Secret Storage Definition, version 3.
    pub fn to_keystore(&self, password: &str) -> Result<String> {
        if password.is_empty() {
            return Err(Error::new(
                Code::InvalidSettings,
                "the keystore's password must not be empty",
            )
            .with_hint("pass a long password: whoever gets the file can try passwords at leisure")
            .with_facts(|facts| facts.field = Some("password")));
        }
        let kdf = Kdf::Scrypt { log_n: SCRYPT_LOG_N, r: SCRYPT_R, p: SCRYPT_P };
        let (salt, iv, id) = (random::<32>()?, random::<16>()?, random::<16>()?);
        let derived = kdf.derive(password.as_bytes(), &salt)?;
        let secret = Zeroizing::new(self.key.to_bytes());
        let mut ciphertext: [u8; 32] = (*secret).into();
        apply_cipher(&derived, &iv, &mut ciphertext);
        let keystore = json!({
            "address": hex::encode(self.address),
            "crypto": {
                "cipher": "aes-128-ctr",
                "cipherparams": {"iv": hex::encode(iv)},
                "ciphertext": hex::encode(ciphertext),
                "kdf": "scrypt",
                "kdfparams": {
                    "dklen": 32,
                    "n": 1_u64 << SCRYPT_LOG_N,
                    "p": SCRYPT_P,
                    "r": SCRYPT_R,
                    "salt": hex::encode(salt),
                },
                "mac": hex::encode(mac(&derived, &ciphertext)),
            },
            "id": uuid(id),
            "version": 3,
        });
        Ok(keystore.to_string())
    }
}

/// What a keystore's JSON says, checked.
struct Keystore {
    address: Option<Address>,
    kdf: Kdf,
    salt: Vec<u8>,
    iv: [u8; 16],
    ciphertext: [u8; 32],
    mac: [u8; 32],
}

/// How the password becomes a key.
enum Kdf {
    Scrypt { log_n: u8, r: u32, p: u32 },
    Pbkdf2 { rounds: u32 },
}

impl Keystore {
    fn read(file: &Value) -> Result<Self> {
        match file.get("version").and_then(Value::as_u64) {
            Some(3) => {}
            Some(other) => return Err(refuse(format!("has version {other}, not 3"))),
            None => return Err(refuse("has no version")),
        }
        // Old tools write it with a capital letter.
        let crypto = file.get("crypto").or_else(|| file.get("Crypto"));
        let crypto = Fields(crypto.ok_or_else(|| refuse("has no crypto"))?);
        crypto.is("cipher", "/cipher", "aes-128-ctr")?;
        let kdf = match crypto.text("kdf", "/kdf")? {
            "scrypt" => Kdf::scrypt(&crypto)?,
            "pbkdf2" => Kdf::pbkdf2(&crypto)?,
            _ => return Err(refuse("has another kdf than scrypt and pbkdf2")),
        };
        // Longer ones begin with the same 32 bytes, and no more are used.
        if crypto.number("kdfparams.dklen", "/kdfparams/dklen")? < 32 {
            return Err(refuse("has a kdfparams.dklen below 32"));
        }
        let address = match file.get("address") {
            None | Some(Value::Null) => None,
            Some(address) => Some(read_address(address)?),
        };
        Ok(Self {
            address,
            kdf,
            salt: crypto.bytes("kdfparams.salt", "/kdfparams/salt")?,
            iv: crypto.array("cipherparams.iv", "/cipherparams/iv")?,
            ciphertext: crypto.array("ciphertext", "/ciphertext")?,
            mac: crypto.array("mac", "/mac")?,
        })
    }

    fn open(&self, password: &[u8]) -> Result<PrivateKey> {
        let derived = self.kdf.derive(password, &self.salt)?;
        if !bool::from(mac(&derived, &self.ciphertext).ct_eq(&self.mac)) {
            return Err(Error::new(Code::WrongPassword, "the password does not open the keystore")
                .with_hint(
                    "pass the password that this keystore was made with, every character of it; if it \
                     is right, the file is damaged: take its backup",
                ));
        }
        let mut secret: Secret<32> = Zeroizing::new(self.ciphertext);
        apply_cipher(&derived, &self.iv, &mut secret);
        let key = PrivateKey::from_bytes(&secret, self.protection(password))
            .map_err(|problem| refuse(format!("holds a private key that {problem}")))?;
        match self.address {
            Some(named) if named != key.address() => Err(refuse(format!(
                "names the address {named}, and its key belongs to {}",
                key.address()
            ))),
            _ => Ok(key),
        }
    }

    fn protection(&self, password: &[u8]) -> Protection {
        let is_strong = match self.kdf {
            Kdf::Scrypt { log_n, r, p } => {
                (u64::from(r) * u64::from(p)).saturating_mul(1 << log_n) >= LEAST_SCRYPT_WORK
            }
            Kdf::Pbkdf2 { rounds } => rounds >= LEAST_PBKDF2_ROUNDS,
        };
        match (password, is_strong) {
            (b"", _) => Protection::Weak("has an empty password"),
            (_, false) => Protection::Weak(
                "lets passwords be guessed fast: scrypt must have n·r·p of at least 65536, pbkdf2 at \
                 least 100000 rounds",
            ),
            _ => Protection::Keystore,
        }
    }
}

impl Kdf {
    fn scrypt(crypto: &Fields<'_>) -> Result<Self> {
        let n = crypto.number("kdfparams.n", "/kdfparams/n")?;
        let r = crypto.number("kdfparams.r", "/kdfparams/r")?;
        let p = crypto.number("kdfparams.p", "/kdfparams/p")?;
        let setting = || format!("asks scrypt for n = {n}, r = {r}, p = {p}");
        if !n.is_power_of_two() || n < 2 || r == 0 || p == 0 {
            return Err(refuse(format!("{}, which it does not know", setting())));
        }
        // Scrypt takes N·r blocks of 128 bytes and then p·r, and N·r·p steps.
        let memory = n.max(p).saturating_mul(r).saturating_mul(128);
        let work = n.saturating_mul(r).saturating_mul(p);
        if memory > MAX_SCRYPT_BYTES || work > MAX_SCRYPT_WORK {
            return Err(refuse(format!(
                "{}, which takes too much memory or time: 512 MiB and n·r·p = {MAX_SCRYPT_WORK} are \
                 the most",
                setting()
            )));
        }
        let number = |value: u64| {
            u32::try_from(value).map_err(|_| refuse(format!("{}, which is too much", setting())))
        };
        // Below 64: a power of two has as many trailing zeros as its logarithm.
        let log_n = u8::try_from(n.trailing_zeros()).unwrap_or(u8::MAX);
        Ok(Self::Scrypt { log_n, r: number(r)?, p: number(p)? })
    }

    fn pbkdf2(crypto: &Fields<'_>) -> Result<Self> {
        crypto.is("kdfparams.prf", "/kdfparams/prf", "hmac-sha256")?;
        let rounds = crypto.number("kdfparams.c", "/kdfparams/c")?;
        match u32::try_from(rounds) {
            Ok(rounds @ 1..=MAX_PBKDF2_ROUNDS) => Ok(Self::Pbkdf2 { rounds }),
            _ => Err(refuse(format!(
                "asks pbkdf2 for {rounds} rounds: 1 to {MAX_PBKDF2_ROUNDS} are taken"
            ))),
        }
    }

    fn derive(&self, password: &[u8], salt: &[u8]) -> Result<Secret<32>> {
        let mut derived: Secret<32> = Zeroizing::new([0; 32]);
        match *self {
            Self::Scrypt { log_n, r, p } => {
                let unknown = |_| refuse("has scrypt settings that scrypt does not know");
                let params = scrypt::Params::new(log_n, r, p).map_err(unknown)?;
                scrypt::scrypt(password, salt, &params, derived.as_mut())
                    .map_err(|_| refuse("has scrypt settings that scrypt does not know"))?;
            }
            Self::Pbkdf2 { rounds } => {
                pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, rounds, derived.as_mut());
            }
        }
        Ok(derived)
    }
}

/// Encrypts or decrypts, which is the same.
fn apply_cipher(derived: &Secret<32>, iv: &[u8; 16], text: &mut [u8; 32]) {
    let mut key: Secret<16> = Zeroizing::new([0; 16]);
    key.copy_from_slice(&derived[..16]);
    Ctr128BE::<Aes128>::new((&*key).into(), iv.into()).apply_keystream(text);
}

/// Tells whether the password fits before anything is decrypted.
fn mac(derived: &Secret<32>, ciphertext: &[u8; 32]) -> [u8; 32] {
    let mut text: Secret<48> = Zeroizing::new([0; 48]);
    text[..16].copy_from_slice(&derived[16..]);
    text[16..].copy_from_slice(ciphertext);
    keccak256(text.as_slice()).0
}

/// What stands below `crypto`, read so that an error names the key and never the value.
struct Fields<'a>(&'a Value);

impl<'a> Fields<'a> {
    fn text(&self, name: &str, pointer: &str) -> Result<&'a str> {
        let value = self.0.pointer(pointer).and_then(Value::as_str);
        value.ok_or_else(|| refuse(format!("must have a {name} that is a string")))
    }

    fn number(&self, name: &str, pointer: &str) -> Result<u64> {
        let value = self.0.pointer(pointer).and_then(Value::as_u64);
        value.ok_or_else(|| refuse(format!("must have a {name} that is a whole number")))
    }

    fn is(&self, name: &str, pointer: &str, expected: &str) -> Result<()> {
        match self.text(name, pointer)? == expected {
            true => Ok(()),
            false => Err(refuse(format!("has another {name} than {expected}"))),
        }
    }

    fn bytes(&self, name: &str, pointer: &str) -> Result<Vec<u8>> {
        hex::decode(self.text(name, pointer)?)
            .map_err(|_| refuse(format!("must have a {name} in hex")))
    }

    fn array<const N: usize>(&self, name: &str, pointer: &str) -> Result<[u8; N]> {
        let bytes = self.bytes(name, pointer)?;
        let length = bytes.len();
        bytes.try_into().map_err(|_| refuse(format!("has a {name} of {length} bytes, not {N}")))
    }
}

/// An address as any tool writes it: with or without 0x, in any case.
fn read_address(value: &Value) -> Result<Address> {
    let text = value.as_str().map(|text| text.strip_prefix("0x").unwrap_or(text));
    let mut address = Address::ZERO;
    match text.map(|digits| hex::decode_to_slice(digits, address.as_mut_slice())) {
        Some(Ok(())) => Ok(address),
        _ => Err(refuse("has an address that is none")),
    }
}

fn read_file(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::new());
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 64 KiB"));
    }
    Ok(text)
}

pub(super) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::new(Code::Internal, "the operating system gives no random bytes")
            .with_hint("without them no keystore is safe: repair the system's random source")
            .with_source(io::Error::other(error.to_string()))
    })?;
    Ok(bytes)
}

/// A random identifier (RFC 9562, version 4).
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex::encode(bytes);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

fn refuse(problem: impl AsRef<str>) -> Error {
    Error::new(Code::InvalidKeystore, format!("the keystore {}", problem.as_ref()))
        .with_hint(HINT)
        .with_facts(|facts| facts.field = Some("keystore"))
}

/// The same error, naming where the keystore came from.
pub(super) fn naming(error: &Error, origin: &str) -> Error {
    let (hint, facts) = (error.hint().unwrap_or(HINT).to_owned(), error.facts().clone());
    Error::new(error.code(), format!("{error}: {origin}"))
        .with_hint(hint)
        .with_facts(|given| *given = facts)
}
