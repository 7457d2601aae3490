//! What the connections of one pool share of TLS, whatever their addresses: the roots, which are read once, and the sessions.

#[cfg(unix)]
mod support;

/// One test, since it sets the environment of its process.
#[cfg(unix)]
#[test]
fn the_addresses_of_a_pool_share_their_roots_and_sessions_and_no_worker_waits_for_the_roots() {
    use std::ffi::CString;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use cenote::grpc::{StreamPool, TlsConfig};
    use cenote_proto::greeter_client::GreeterClient;
    use support::authority::Authority;
    use support::frames::Wire;
    use support::hello;
    use support::memory::*;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    // The roots of the system, as far as this process sees, are a pipe: reading them waits until it is written.
    let dir = std::env::temp_dir().join(format!("cenote-roots-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let roots = dir.join("roots.pem");
    let path = CString::new(roots.to_str().unwrap()).unwrap();
    // SAFETY: `path` is a string that ends with a zero, and lives through the call.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    // SAFETY: the only test of this process; no other thread looks at the environment yet.
    unsafe {
        std::env::set_var("SSL_CERT_FILE", &roots);
        std::env::remove_var("SSL_CERT_DIR");
    }
    let authority = Authority::new();
    let pem = authority.pem();
    let read = Arc::new(AtomicBool::new(false));
    let (write, may_write) = std::sync::mpsc::channel::<()>();
    let counted = Arc::clone(&read);
    let file = roots.clone();
    // Written once: who reads a second time waits for ever.
    std::thread::spawn(move || {
        // Opens when a reader does.
        let mut pipe = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
        counted.store(true, Ordering::SeqCst);
        may_write.recv().unwrap();
        std::io::Write::write_all(&mut pipe, pem.as_bytes()).unwrap();
    });

    let (certificate, key) = authority.issue("greeter");
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));

    // One worker: if it waited, nothing else would happen.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let story = async {
        let (connector, mut server) = pipes(CAPACITY);
        let pool = StreamPool::builder()
            .connector(connector)
            .tls(TlsConfig::new().native_roots().server_name("greeter"))
            .build()
            .unwrap();
        let mut calls = Vec::new();
        for address in ["https://one:1", "https://two:1"] {
            let mut client = GreeterClient::new(pool.channel(address).unwrap());
            calls.push(tokio::spawn(async move { client.say_hello(hello("ada")).await }));
        }
        // The worker goes on while the roots are read.
        while !read.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(calls.iter().all(|call| !call.is_finished()));
        write.send(()).unwrap();
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let socket = server.dialed().await;
            let tls = acceptor.accept(socket).await.unwrap();
            kinds.push(tls.get_ref().1.handshake_kind());
            let mut wire = Wire::over(tls, &[]).await;
            let (stream, _) = wire.request().await;
            wire.answer(stream, "well").await;
            tokio::spawn(async move { wire.closed().await });
        }
        for call in calls {
            call.await.unwrap().unwrap();
        }
        // A third address, when a session is known for sure.
        let mut client = GreeterClient::new(pool.channel("https://three:1").unwrap());
        let call = tokio::spawn(async move { client.say_hello(hello("ada")).await });
        let tls = acceptor.accept(server.dialed().await).await.unwrap();
        let kind = tls.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(tokio_rustls::rustls::HandshakeKind::Resumed), "after {kinds:?}");
        let mut wire = Wire::over(tls, &[]).await;
        let (stream, _) = wire.request().await;
        wire.answer(stream, "well").await;
        call.await.unwrap().unwrap();
    };
    let done = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), story).await });
    let _ = std::fs::remove_dir_all(dir);
    // A second reader would be waited for.
    runtime.shutdown_background();
    done.expect("the roots are read once");
}
