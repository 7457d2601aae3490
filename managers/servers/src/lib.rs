//! Real database servers for tests and drills: each is started on a loopback port and in a directory of its own, can be
//! stopped, killed, paused and started again, and ends with its value. [`Proxy`] stands between a client and a server, and
//! misbehaves when told to.

#![cfg(unix)]

mod drill;
mod proxy;

pub use self::drill::{restart_under_load, whole_text};
pub use self::proxy::{Mode, Proxy};

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The name of the user that each server knows (Redis: the default one).
pub const USER: &str = "cenote";
/// Their password. Nothing that a manager prints may contain it.
pub const PASSWORD: &str = "correct-horse-battery";

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// What kind of server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// PostgreSQL, with the database `postgres`.
    Postgres,
    /// MariaDB, with the database `test`.
    MariaDb,
    /// Redis.
    Redis,
}

impl Kind {
    /// The programs that it takes: the server, and what prepares its directory.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Kind::Postgres => &["postgres", "initdb"],
            Kind::MariaDb => &["mariadbd", "mariadb-install-db"],
            Kind::Redis => &["redis-server"],
        }
    }

    /// The system user that Debian's package makes for it. The servers refuse to run as root.
    fn system_user(self) -> &'static str {
        match self {
            Kind::Postgres => "postgres",
            Kind::MariaDb => "mysql",
            Kind::Redis => "redis",
        }
    }

    /// What it writes to its log when it takes connections.
    fn is_ready(self, log: &str) -> bool {
        match self {
            Kind::Postgres => log.contains("database system is ready to accept"),
            Kind::MariaDb => log.contains("ready for connections"),
            Kind::Redis => log.contains("Ready to accept connections"),
        }
    }

    /// The signal that stops it at once, but in an orderly way.
    fn stop_signal(self) -> libc::c_int {
        match self {
            Kind::Postgres => libc::SIGINT,
            Kind::MariaDb | Kind::Redis => libc::SIGTERM,
        }
    }
}

/// A running server. It is killed, and its directory removed, when the value is dropped.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    programs: Vec<PathBuf>,
    arguments: &'static [&'static str],
    /// The user to become, if we are root.
    owner: Option<(u32, u32)>,
    directory: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Server {
    /// Starts a server, or says on standard error that the test is skipped because it is not installed. With
    /// `CENOTE_REQUIRE_PEERS=1` a missing server is a failure.
    ///
    /// # Panics
    ///
    /// If an installed server does not start.
    pub fn start_or_skip(kind: Kind) -> Option<Server> {
        Server::start_or_skip_with(kind, &[])
    }

    /// The same, with more arguments for the server.
    ///
    /// # Panics
    ///
    /// As above.
    pub fn start_or_skip_with(kind: Kind, arguments: &'static [&'static str]) -> Option<Server> {
        let programs: Option<Vec<_>> = kind.programs().iter().map(|name| find(name)).collect();
        if let Some(programs) = programs {
            return Some(
                Server::start_new(kind, programs, arguments)
                    .unwrap_or_else(|error| panic!("{kind:?}: {error}")),
            );
        }
        assert!(std::env::var_os("CENOTE_REQUIRE_PEERS").is_none(), "{kind:?} is not installed");
        eprintln!("skipped: {kind:?} is not installed");
        None
    }

    fn start_new(
        kind: Kind,
        programs: Vec<PathBuf>,
        arguments: &'static [&'static str],
    ) -> io::Result<Server> {
        let directory = tempfile::Builder::new().prefix("cenote-").tempdir()?;
        let owner = owner(kind)?;
        if let Some((user, group)) = owner {
            chown(directory.path(), Some(user), Some(group))?;
        }
        let mut server =
            Server { kind, programs, arguments, owner, directory, port: free_port()?, child: None };
        server.prepare()?;
        server.start()?;
        Ok(server)
    }

    /// Its port on the loopback interface.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL, for a client that connects to another port too: a proxy's.
    pub fn url(&self, port: u16) -> String {
        match self.kind {
            Kind::Postgres => format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres"),
            Kind::MariaDb => format!("mysql://{USER}:{PASSWORD}@127.0.0.1:{port}/test"),
            Kind::Redis => format!("redis://:{PASSWORD}@127.0.0.1:{port}/0"),
        }
    }

    /// What it has logged since it was last started.
    pub fn log(&self) -> String {
        fs::read(self.path("log")).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// The directory of its data.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// Starts it again, on the same port and with the same data.
    ///
    /// # Errors
    ///
    /// If it ends at once, or does not become ready.
    pub fn start(&mut self) -> io::Result<()> {
        let log = self.path("log");
        let data = self.data();
        let file = File::create(&log)?;
        fs::set_permissions(&log, fs::Permissions::from_mode(0o666))?;
        let port = self.port.to_string();
        let mut command = self.command(0);
        match self.kind {
            Kind::Postgres => command.arg("-D").arg(&data).args([
                "-p",
                &port,
                "-h",
                "127.0.0.1",
                "-k",
                "",
                "-F",
                "-c",
                "max_connections=50",
            ]),
            Kind::MariaDb => command
                .arg("--no-defaults")
                .arg(format!("--datadir={}", data.display()))
                .arg(format!("--socket={}", self.path("socket").display()))
                .arg(format!("--port={port}"))
                .args([
                    "--bind-address=127.0.0.1",
                    "--innodb-flush-log-at-trx-commit=0",
                    "--skip-name-resolve",
                ]),
            Kind::Redis => command
                .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--requirepass", PASSWORD])
                .arg("--dir")
                .arg(&data),
        };
        command.args(self.arguments).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        self.child = Some(command.spawn()?);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.log();
            if self.kind.is_ready(&text) {
                return Ok(());
            }
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || Instant::now() > deadline {
                return Err(io::Error::other(format!("it did not start: {text}")));
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Stops it in an orderly way: it ends its connections first.
    pub fn stop(&mut self) {
        self.end(self.kind.stop_signal());
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.end(libc::SIGKILL);
    }

    fn end(&mut self, signal: libc::c_int) {
        self.signal(signal);
        if let Some(mut child) = self.child.take() {
            let deadline = Instant::now() + PATIENCE;
            while child.try_wait().is_ok_and(|ended| ended.is_none()) {
                if Instant::now() > deadline {
                    let _ = child.kill();
                }
                sleep(Duration::from_millis(5));
            }
        }
    }

    fn signal(&self, signal: libc::c_int) {
        if let Some(child) = &self.child {
            // SAFETY: the child has not been waited for, so the number is still its own.
            unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        }
    }

    /// Makes the directory of its data, with the user.
    fn prepare(&self) -> io::Result<()> {
        let data = self.data();
        match self.kind {
            Kind::Postgres => {
                let password = self.path("password");
                fs::write(&password, PASSWORD)?;
                let mut command = self.command(1);
                command.arg("-D").arg(&data).arg("--pwfile").arg(&password);
                run(command.args([
                    "-U",
                    USER,
                    "-A",
                    "scram-sha-256",
                    "--no-sync",
                    "-E",
                    "UTF8",
                    "--no-locale",
                ]))
            }
            Kind::MariaDb => {
                let mut command = self.command(1);
                command.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
                run(command.args(["--auth-root-authentication-method=normal", "--skip-test-db"]))?;
                let sql = format!(
                    "CREATE DATABASE test; CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'; \
                     GRANT ALL ON *.* TO {USER}@'%' WITH GRANT OPTION;\n"
                );
                let mut command = self.command(0);
                command.args(["--no-defaults", "--bootstrap", "--skip-networking"]);
                command.arg(format!("--datadir={}", data.display()));
                let mut child =
                    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
                // The grant tables are not read in this mode until asked for.
                let sql = format!("FLUSH PRIVILEGES;\n{}", sql.replace("; ", ";\n"));
                child.stdin.take().expect("it is piped").write_all(sql.as_bytes())?;
                succeeded(&child.wait_with_output()?)
            }
            Kind::Redis => {
                fs::create_dir(&data)?;
                self.owner.map_or(Ok(()), |(user, group)| chown(&data, Some(user), Some(group)))
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, program: usize) -> Command {
        let mut command = Command::new(&self.programs[program]);
        // MariaDB removes what it takes for its own temporary tables when it starts: another server's, in a common directory.
        command.current_dir(self.directory.path()).env("LC_ALL", "C").env("TMPDIR", self.directory.path());
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A server that the tests of one program share while any of them runs.
#[derive(Debug)]
pub struct Common {
    kind: Kind,
    server: Mutex<Weak<Server>>,
}

impl Common {
    /// A server that is started when it is first asked for.
    pub const fn new(kind: Kind) -> Common {
        Common { kind, server: Mutex::new(Weak::new()) }
    }

    /// See [`Server::start_or_skip`].
    pub fn start_or_skip(&self) -> Option<Arc<Server>> {
        let mut shared = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return Some(server);
        }
        let server = Arc::new(Server::start_or_skip(self.kind)?);
        *shared = Arc::downgrade(&server);
        Some(server)
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    succeeded(&command.stdin(Stdio::null()).output()?)
}

fn succeeded(output: &std::process::Output) -> io::Result<()> {
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

/// Looks for a program in the path, and where Debian keeps the servers.
fn find(name: &str) -> Option<PathBuf> {
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut versions: Vec<_> = debian.flatten().map(|entry| entry.path().join("bin")).collect();
    versions.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = versions.into_iter().rev().chain(["/usr/sbin".into()]).chain(std::env::split_paths(&path));
    places.map(|place| place.join(name)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Whom the server is to run as: nobody else unless we are root.
fn owner(kind: Kind) -> io::Result<Option<(u32, u32)>> {
    // SAFETY: it has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let found = [kind.system_user(), "nobody"].iter().find_map(|name| {
        let entry = users.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let mut numbers = entry.split(':').skip(1).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    found.map(Some).ok_or_else(|| io::Error::other("there is no user for it to run as"))
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
