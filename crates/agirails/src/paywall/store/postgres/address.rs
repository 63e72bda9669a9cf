//! Where the database is, and how to get there safely.

use std::{collections::HashSet, fs, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;
use url::form_urlencoded;

use crate::error::{Code, Error, Result, shown_path, shown_words};

/// How long data may be on the way unacknowledged, and a connection silent before it is probed.
const SILENCE: Duration = Duration::from_secs(30);

/// A database as its URL names it. Nothing of it that is shown holds the password.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) config: Config,
    /// Whose certificates are trusted; `None` where no connection is encrypted.
    pub(super) tls: Option<MakeRustlsConnect>,
    /// What errors call it: host, port and name.
    pub(super) shown: String,
}

impl Address {
    /// Reads a URL as libpq does, with these differences: without `sslmode` a server on this
    /// machine is asked without TLS, and every other one must offer it; whoever answers with TLS must
    /// have a certificate that is good for its name, so that `require` means what libpq calls
    /// `verify-full`. Whoever is on the way would otherwise be told the password.
    pub(super) fn read(url: &str, connect: Duration) -> Result<Self> {
        let rest =
            ["postgres://", "postgresql://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        let Some(rest) = rest else {
            return Err(bad_url("has a scheme that is neither postgres:// nor postgresql://"));
        };
        let (before, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        // Of the part behind the first @ messages show some, so it must not be a password's.
        if before.matches('@').count() > 1 {
            return Err(bad_url("has more than one @"));
        }
        let mut tls_settings = TlsSettings::default();
        let mut others = form_urlencoded::Serializer::new(String::new());
        for (name, value) in form_urlencoded::parse(parameters.replace('+', "%2B").as_bytes()) {
            match (&*name, &*value) {
                ("sslrootcert", "system") => {}
                ("sslrootcert", path) => tls_settings.roots = Some(path.into()),
                ("sslmode", mode) => {
                    tls_settings.mode = Some(match mode {
                        "disable" => SslMode::Disable,
                        "allow" | "prefer" => SslMode::Prefer,
                        "require" | "verify-ca" | "verify-full" => SslMode::Require,
                        _ => return Err(bad_url("has an sslmode that is not known")),
                    });
                }
                _ => {
                    others.append_pair(&name, &value);
                }
            }
        }
        // A space is written as + by the serializer, and read as + by the parser.
        let others = others.finish().replace('+', "%20");
        let mut config: Config = format!("postgres://{before}?{others}")
            .parse()
            // The cause may quote the URL.
            .map_err(|_| bad_url("cannot be read"))?;

        let shown = shown(&config)?;
        let hosts = u32::try_from(config.get_hosts().len()).unwrap_or(u32::MAX).max(1);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(connect / hosts);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SILENCE);
        }
        if !parameters.contains("keepalives_idle=") {
            config.keepalives_idle(SILENCE);
        }
        if config.get_application_name().is_none() {
            config.application_name(concat!("agirails-rs/", env!("CARGO_PKG_VERSION")));
        }
        let mode =
            tls_settings.mode.unwrap_or_else(|| match config.get_hosts().iter().all(is_here) {
                true => SslMode::Disable,
                false => SslMode::Require,
            });
        config.ssl_mode(mode);
        let tls = match mode {
            SslMode::Disable => None,
            _ => Some(tls_settings.connector()?),
        };
        Ok(Self { config, tls, shown })
    }
}

#[derive(Default)]
struct TlsSettings {
    mode: Option<SslMode>,
    /// A file of certificates to trust instead of the system's.
    roots: Option<PathBuf>,
}

impl TlsSettings {
    fn connector(&self) -> Result<MakeRustlsConnect> {
        let mut roots = RootCertStore::empty();
        match &self.roots {
            Some(path) => {
                let unusable = |problem: String| {
                    let path = shown_path(path);
                    bad_url(&format!(
                        "names the sslrootcert {path}, which cannot be used: {problem}"
                    ))
                };
                let pem = fs::read(path).map_err(|error| unusable(error.to_string()))?;
                for certificate in CertificateDer::pem_slice_iter(&pem) {
                    let added = certificate.map(|certificate| roots.add(certificate));
                    match added {
                        Ok(Ok(())) => {}
                        _ => return Err(unusable("it must hold certificates only".to_owned())),
                    }
                }
                if roots.is_empty() {
                    return Err(unusable("it holds no certificate".to_owned()));
                }
            }
            // Where the system has none, the server's is refused, in words that say so.
            None => drop(
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
            ),
        }
        let config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| {
                    Error::new(Code::StorageUnavailable, "no secure connection can be made")
                        .with_source(error)
                })?;
        Ok(MakeRustlsConnect::new(config.with_root_certificates(roots).with_no_client_auth()))
    }
}

/// Whether this is on this machine, where nobody listens on the way.
fn is_here(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    }
}

fn shown(config: &Config) -> Result<String> {
    let mut names = Vec::new();
    for (place, host) in config.get_hosts().iter().enumerate() {
        let port = config.get_ports().get(place).or(config.get_ports().first()).unwrap_or(&5432);
        names.push(match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            #[cfg(unix)]
            Host::Unix(path) => format!("{}:{port}", path.display()),
        });
    }
    if names.is_empty() && config.get_hostaddrs().is_empty() {
        return Err(bad_url("names no host"));
    }
    names.extend(config.get_hostaddrs().iter().map(IpAddr::to_string));
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    let hosts = names.join(",");
    Ok(shown_words(&match config.get_dbname() {
        Some(database) => format!("{hosts}/{database}"),
        None => hosts,
    }))
}

/// Never quotes the URL.
fn bad_url(problem: &str) -> Error {
    Error::new(Code::InvalidSettings, format!("the database's URL {problem}"))
        .with_facts(|facts| facts.field = Some("store"))
        .with_hint(
            "write it as in postgres://user:password@host:5432/database?sslmode=require, \
             with what is special in the password percent-encoded (@ as %40)",
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Address> {
        Address::read(url, Duration::from_secs(5))
    }

    #[test]
    fn tls_is_used_where_it_is_asked_for_and_left_out_on_this_machine() {
        let mode = |url: &str| read(url).unwrap().config.get_ssl_mode();
        assert_eq!(mode("postgres://a@127.0.0.1/d"), SslMode::Disable);
        assert_eq!(mode("postgres://a@localhost:1/d"), SslMode::Disable);
        assert_eq!(mode("postgres://a@%2Ftmp/d"), SslMode::Disable);
        assert_eq!(mode("postgres://a@example.org/d"), SslMode::Require);
        assert_eq!(mode("postgres://a@localhost,example.org/d"), SslMode::Require);
        // A name is who must answer, wherever it is sought.
        assert_eq!(mode("postgres://a@example.org/d?hostaddr=127.0.0.1"), SslMode::Require);
        assert_eq!(mode("postgres://a@example.org/d?sslmode=prefer"), SslMode::Prefer);
        assert_eq!(mode("postgres://a@example.org/d?sslmode=disable"), SslMode::Disable);
        for strict in ["require", "verify-ca", "verify-full"] {
            let url = format!("postgresql://a@localhost/d?sslmode={strict}&sslrootcert=system");
            assert_eq!(mode(&url), SslMode::Require, "{strict}");
        }
        assert!(read("postgres://a@example.org/d?sslmode=require").unwrap().tls.is_some());
        assert!(read("postgres://a@example.org/d?sslmode=disable").unwrap().tls.is_none());
    }

    #[test]
    fn parameters_come_through_as_they_are_written() {
        let address =
            read("postgres://a:b@h/d?application_name=one%20two+three&keepalives=0").unwrap();
        assert_eq!(address.config.get_application_name(), Some("one two+three"));
        assert!(!address.config.get_keepalives());
        assert_eq!(address.config.get_password(), Some(&b"b"[..]));
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_being_quoted() {
        let refused = [
            "mysql://user:hidden@host/db",
            "host=localhost password=hidden",
            "postgres://user:hid@den@host/db",
            "postgres://user:hid@den/word@host/db",
            "postgres://user:hidden@host:hidden/db",
            "postgres://user:hidden@/db",
            "postgres://user:hidden@host/db?sslmode=hidden",
            "postgres://user:hidden@host/db?sslmode=require&sslrootcert=/nowhere",
            "postgres://user:hidden@host/db?hidden=hidden",
        ];
        for url in refused {
            let error = read(url).err().unwrap_or_else(|| panic!("{url} was taken"));
            assert_eq!(error.code(), Code::InvalidSettings, "{url}");
            let said = format!("{error:#} {error:?}");
            assert!(!said.contains("hid") && !said.contains("den/"), "{said}");
        }
    }

    #[test]
    fn a_database_is_called_by_host_port_and_name() {
        let shown = |url: &str| read(url).unwrap().shown;
        assert_eq!(shown("postgres://user:pass@host/db"), "host:5432/db");
        assert_eq!(shown("postgres://user:pass@one:1,two:2/db"), "one:1,two:2/db");
        assert_eq!(shown("postgres://user@%2Frun%2Fpg/db"), "/run/pg:5432/db");
        assert_eq!(shown("postgres://user@[::1]:7"), "::1:7");
    }
}
