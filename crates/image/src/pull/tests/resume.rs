//! Pulls that break off, and several at once.

use super::*;

#[test]
fn many_pulls_of_one_image_at_once_all_succeed() {
    let layers: Vec<Layer> = (0..5_u8)
        .map(|number| Layer::gzip(&tar(&[("d/", b""), ("d/file", &[number; 400_000])])))
        .collect();
    let server = serve_image(&layers);
    let setup = setup();
    let barrier = Arc::new(Barrier::new(6));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                // A store of its own, like another process.
                let store = Store::open(setup.directory.path()).unwrap();
                let reference = Reference::parse(&format!("{}/a/b", server.host())).unwrap();
                barrier.wait();
                let pulled = pull(&store, &setup.options, &reference, None, &|_| {}).unwrap();
                assert_eq!(pulled.size, 2_000_000);
                // It may take a directory or a lock file that another has just made and not locked
                // yet; that one makes another.
                store.sweep().unwrap();
            });
        }
    });
    assert_eq!(setup.store.list_layers().unwrap().len(), 5);
    assert_eq!(setup.store.list_blobs().unwrap().len(), 7);
    assert_eq!(
        std::fs::read_dir(setup.directory.path().join("ingest"))
            .unwrap()
            .count(),
        0
    );
    for (number, layer) in (0..).zip(&layers) {
        let file = std::fs::read(setup.store.layer_path(&layer.diff_id).join("d/file")).unwrap();
        assert!(file == [number; 400_000]);
    }
}

#[test]
fn broken_connections_are_continued() {
    // Noise, so that the compressed layer is longer than what comes before the break.
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(900_000)
    .collect();
    let archive = tar(&[("file", &noise)]);
    let layer = Layer::gzip(&archive);
    let mut content = Content::default();
    content.image(Some("latest"), std::slice::from_ref(&layer), "linux/amd64");
    let path = format!("/v2/a/b/blobs/{}", layer.digest);
    let broken = AtomicBool::new(false);
    let server = Server::start(move |request| {
        let Some(reply) = content.0.get(request.path()).cloned() else {
            return Reply::new(404, "");
        };
        if request.path() == path && !broken.swap(true, Ordering::Relaxed) {
            return Reply {
                cut: Some(300_000),
                ..reply
            };
        }
        match request.header("range").and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        }) {
            Some(start) => {
                let end = reply.body.len();
                let range = format!("bytes {start}-{}/{end}", end - 1);
                Reply::new(206, &reply.body[start..]).header("Content-Range", range)
            }
            None => reply,
        }
    });
    let setup = setup();
    setup.pull(&server, "").unwrap();
    assert!(
        server
            .seen()
            .iter()
            .any(|request| request.header("range") == Some("bytes=300000-"))
    );
}

/// Bytes without a pattern, so that the compressed layer is about as long.
fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(length)
    .collect()
}

/// Serves an image with one large layer. Of the first `breaks` answers with its blob only `cut`
/// bytes come; `ranges` is whether it sends parts. Counts the bytes of the blob.
fn serve_large(layer: &Layer, breaks: u32, cut: usize, ranges: bool) -> (Server, Arc<AtomicU64>) {
    let mut content = Content::default();
    content.image(Some("latest"), std::slice::from_ref(layer), "linux/amd64");
    let path = format!("/v2/a/b/blobs/{}", layer.digest);
    let (count, sent) = (AtomicU32::new(0), Arc::new(AtomicU64::new(0)));
    let total = sent.clone();
    let server = Server::start(move |request| {
        let Some(reply) = content.0.get(request.path()).cloned() else {
            return Reply::new(404, "");
        };
        if request.path() != path {
            return reply;
        }
        let mut reply = if ranges {
            crate::testing::registry::ranged(request, &reply.body)
        } else {
            reply
        };
        if count.fetch_add(1, Ordering::Relaxed) < breaks {
            reply.cut = Some(cut.min(reply.body.len()));
        }
        let length = reply.cut.unwrap_or(reply.body.len());
        total.fetch_add(length as u64, Ordering::Relaxed);
        reply
    });
    (server, sent)
}

fn partials(setup: &Setup) -> Vec<u64> {
    let found = setup.store.partials().unwrap();
    found.iter().map(|info| info.bytes).collect()
}

const NOTHING: [u64; 0] = [];

/// As after `kill -9` or a reboot: nothing is left but the file with what has come.
#[test]
fn another_process_continues_a_pull() {
    let layer = Layer::gzip(&tar(&[("file", &noise(1, 2_000_000))]));
    for ranges in [true, false] {
        let mut setup = setup();
        setup.options.client.retry.retries = 0;
        let (server, sent) = serve_large(&layer, 1, 1_500_000, ranges);
        let error = setup.pull(&server, "").unwrap_err();
        assert!(
            matches!(&error, PullError::Layer { source, .. } if matches!(**source, LayerError::Registry(_))),
            "{error:?}"
        );
        assert_eq!(setup.store.list_blobs().unwrap(), []);
        assert_eq!(setup.store.sweep().unwrap(), 0, "it is fresh");
        assert_eq!(partials(&setup).len(), 1);
        let again = Setup {
            store: Store::open(setup.directory.path()).unwrap(),
            ..setup
        };
        again.pull(&server, "").unwrap();
        let sent = sent.load(Ordering::Relaxed);
        if ranges {
            assert!(sent < layer.size + layer.size / 20, "{sent}");
        } else {
            assert_eq!(sent, 1_500_000 + layer.size);
        }
        assert_eq!(partials(&again), NOTHING, "nothing is left over");
        let blob = again.store.read_blob(&layer.digest, 1 << 30).unwrap();
        assert!(blob == layer.served);
        let path = again.store.layer_path(&layer.diff_id).join("file");
        assert!(std::fs::read(path).unwrap() == noise(1, 2_000_000));
    }
}

#[test]
fn a_whole_blob_that_was_not_unpacked_is_not_fetched_again() {
    let layer = Layer::gzip(&tar(&[("file", &noise(1, 600_000))]));
    let setup = setup();
    let partial = setup.store.partial(&layer.digest).unwrap();
    partial.write_at(&layer.served, 0).unwrap();
    drop(partial);
    let (server, sent) = serve_large(&layer, 0, 0, true);
    setup.pull(&server, "").unwrap();
    assert_eq!(sent.load(Ordering::Relaxed), 0);
    assert!(setup.store.has_blob(&layer.digest).unwrap());
}

#[test]
fn damaged_remains_are_thrown_away() {
    let layer = Layer::gzip(&tar(&[("file", &noise(1, 900_000))]));
    let length = layer.served.len();
    let flipped = {
        let mut bytes = layer.served[..length / 2].to_vec();
        bytes[1000] ^= 1;
        bytes
    };
    for (what, bytes) in [
        ("another blob", noise(7, length / 2)),
        ("a flipped bit", flipped),
        (
            "zeros, as after a crash of a bad file system",
            vec![0; length / 2],
        ),
        ("too long", noise(8, length + 1)),
        ("all wrong", noise(9, length)),
    ] {
        let setup = setup();
        let partial = setup.store.partial(&layer.digest).unwrap();
        partial.write_at(&bytes, 0).unwrap();
        drop(partial);
        let (server, _) = serve_large(&layer, 0, 0, true);
        setup
            .pull(&server, "")
            .unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let blob = setup.store.read_blob(&layer.digest, 1 << 30).unwrap();
        assert!(blob == layer.served, "{what}");
        assert_eq!(partials(&setup), NOTHING, "{what}");
    }
}

/// What a registry sent wrongly is not what the next pull goes on with.
#[test]
fn wrong_bytes_leave_nothing() {
    let mut layer = Layer::gzip(&tar(&[("file", &noise(1, 900_000))]));
    layer.served[500_000] ^= 1;
    let setup = setup();
    let (server, _) = serve_large(&layer, 0, 0, true);
    setup.layer_error(&server, "wrong bytes");
    assert_eq!(partials(&setup), NOTHING);
}

/// The acceptance of issue 4: eight pulls of eight images that share layers, while somebody
/// sweeps in a loop; each blob is fetched and each layer unpacked once.
#[test]
fn pulls_that_share_layers_fetch_each_once() {
    let layers: Vec<Layer> = (0..6)
        .map(|seed| Layer::gzip(&tar(&[("file", &noise(seed, 300_000 + seed as usize))])))
        .collect();
    let mut content = Content::default();
    for number in 0..8_usize {
        let chosen: Vec<Layer> = (0..6)
            .filter(|layer| (number + layer) % 3 != 0)
            .map(|layer| layers[layer].clone())
            .collect();
        content.image(Some(&format!("t{number}")), &chosen, "linux/amd64");
    }
    let server = content.serve();
    let setup = setup();
    let done = AtomicBool::new(false);
    let barrier = Barrier::new(9);
    let unpacked = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..8)
            .map(|number| {
                let (setup, server, barrier) = (&setup, &server, &barrier);
                let unpacked = &unpacked;
                scope.spawn(move || {
                    let store = Store::open(setup.directory.path()).unwrap();
                    let reference =
                        Reference::parse(&format!("{}/a/b:t{number}", server.host())).unwrap();
                    barrier.wait();
                    let _keep = store.keep().unwrap();
                    pull(&store, &setup.options, &reference, None, &|event| {
                        if matches!(event, PullEvent::LayerExtracted { .. }) {
                            unpacked.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                    .map(|pulled| pulled.layers.len())
                })
            })
            .collect();
        let sweeper = scope.spawn(|| {
            let store = Store::open(setup.directory.path()).unwrap();
            barrier.wait();
            while !done.load(Ordering::Relaxed) {
                store.sweep().unwrap();
            }
        });
        for pull in pulls {
            assert_eq!(pull.join().unwrap().unwrap(), 4);
        }
        done.store(true, Ordering::Relaxed);
        sweeper.join().unwrap();
    });
    for layer in &layers {
        let path = format!("/v2/a/b/blobs/{}", layer.digest);
        let seen = server.seen();
        let requests = seen.iter().filter(|request| request.path() == path).count();
        assert_eq!(requests, 1);
    }
    assert_eq!(unpacked.into_inner(), 6);
    assert_eq!(partials(&setup), NOTHING);
}

/// Options with which the tests' registry, which is local, is asked for parts.
fn in_parts(setup: &mut Setup) {
    setup.options.ranges = Some(RangeOptions {
        threshold: 1 << 20,
        part: 256 << 10,
        connections: 4,
        local: true,
    });
}

#[test]
fn large_blobs_come_over_several_connections() {
    let layer = Layer::gzip(&tar(&[("file", &noise(1, 5_000_000))]));
    // Whole, broken now and then, and from a server without parts.
    for (breaks, ranges) in [(0, true), (3, true), (0, false), (1, false)] {
        let mut setup = setup();
        in_parts(&mut setup);
        setup.options.client.retry.retries = 3;
        let (server, sent) = serve_large(&layer, breaks, 100_000, ranges);
        setup.pull(&server, "").unwrap();
        let path = format!("/v2/a/b/blobs/{}", layer.digest);
        let requests = server
            .seen()
            .iter()
            .filter(|request| request.path() == path)
            .count();
        assert_eq!(requests >= 19, ranges, "{requests}");
        if ranges {
            assert_eq!(sent.load(Ordering::Relaxed), layer.size, "no byte twice");
        }
        let blob = setup.store.read_blob(&layer.digest, 1 << 30).unwrap();
        assert!(blob == layer.served);
        assert_eq!(partials(&setup), NOTHING);
    }
}

#[test]
fn parts_that_came_out_of_order_are_kept() {
    let layer = Layer::gzip(&tar(&[("file", &noise(1, 5_000_000))]));
    let mut setup = setup();
    in_parts(&mut setup);
    let part = 256 << 10;
    let partial = setup.store.partial(&layer.digest).unwrap();
    partial.cut(layer.size).unwrap();
    for number in [0, 1, 3, 7, 8] {
        let range = number * part..(number + 1) * part;
        partial
            .write_at(&layer.served[range.clone()], range.start as u64)
            .unwrap();
    }
    drop(partial);
    let (server, sent) = serve_large(&layer, 0, 0, true);
    setup.pull(&server, "").unwrap();
    let saved = layer.size - sent.load(Ordering::Relaxed);
    // Of the last block before a hole nobody knows.
    assert!(saved > 5 * part as u64 - 4 * 8192, "{saved}");
}

#[test]
fn a_part_that_fails_ends_the_pull_and_leaves_the_others() {
    let layer = Layer::gzip(&tar(&[("file", &noise(1, 5_000_000))]));
    let mut setup = setup();
    in_parts(&mut setup);
    let mut content = Content::default();
    content.image(Some("latest"), std::slice::from_ref(&layer), "linux/amd64");
    let path = format!("/v2/a/b/blobs/{}", layer.digest);
    let server = Server::start(move |request| {
        let reply = content.0.get(request.path()).cloned().unwrap();
        if request.path() != path {
            return reply;
        }
        let first = format!("bytes={}-", 6 * (256 << 10));
        if request
            .header("range")
            .is_some_and(|range| range.starts_with(&first))
        {
            // The others get on meanwhile.
            std::thread::sleep(Duration::from_millis(200));
            return Reply::new(500, "");
        }
        crate::testing::registry::ranged(request, &reply.body)
    });
    let error = setup.pull(&server, "").unwrap_err();
    assert!(chain(&error).contains("500"), "{}", chain(&error));
    assert!(partials(&setup)[0] >= 4 * (256 << 10));
}

/// A slow registry is waited for, byte by byte, as long as anything comes.
#[test]
fn slow_bytes_arrive() {
    let layer = Layer::gzip(&tar(&[("file", &noise(1, 3000))]));
    let mut content = Content::default();
    content.image(Some("latest"), std::slice::from_ref(&layer), "linux/amd64");
    for reply in content.0.values_mut() {
        reply.slow = Some(Duration::from_millis(20));
    }
    setup().pull(&content.serve(), "").unwrap();
}

/// An answer without end ends where the blob should, and memory stays bounded.
#[test]
fn endless_bodies_end() {
    let layer = Layer::gzip(&tar(&[("file", &noise(1, 300_000))]));
    let mut longer = layer.clone();
    longer.served.extend(vec![0; 40 << 20]);
    for chunked in [true, false] {
        let mut content = Content::default();
        content.image(Some("latest"), std::slice::from_ref(&longer), "linux/amd64");
        let blob = content
            .0
            .get_mut(&format!("/v2/a/b/blobs/{}", layer.digest))
            .unwrap();
        blob.chunked = chunked;
        let setup = setup();
        let error = setup.layer_error(&content.serve(), "endless");
        assert!(
            matches!(&error, LayerError::Registry(e) if matches!(**e, RegistryError::BlobSize { .. })),
            "{error:?}"
        );
        assert_eq!(partials(&setup), NOTHING);
    }
}

/// Also what lies behind a hole, where nothing is there at the beginning.
#[test]
fn damaged_remains_behind_a_hole_are_thrown_away() {
    let layer = Layer::gzip(&tar(&[("file", &noise(1, 5_000_000))]));
    let mut setup = setup();
    in_parts(&mut setup);
    let part = 256 << 10;
    let partial = setup.store.partial(&layer.digest).unwrap();
    partial.cut(layer.size).unwrap();
    partial.write_at(&noise(7, part), 3 * part as u64).unwrap();
    drop(partial);
    let (server, _) = serve_large(&layer, 0, 0, true);
    setup.pull(&server, "").unwrap();
    let blob = setup.store.read_blob(&layer.digest, 1 << 30).unwrap();
    assert!(blob == layer.served);
}

/// A mirror with a damaged blob is left out, and the registry itself still has to be right.
#[test]
fn a_damaged_mirror_does_not_stop_a_pull() {
    let layer = Layer::gzip(&tar(&[("file", &noise(1, 900_000))]));
    let mut damaged = layer.clone();
    damaged.served[500_000] ^= 1;
    for own_is_damaged in [false, true] {
        let (mirror, _) = serve_large(&damaged, 0, 0, true);
        let own = if own_is_damaged { &damaged } else { &layer };
        let (own, _) = serve_large(own, 0, 0, true);
        let mut setup = setup();
        let hosts = TestDirectory::new();
        let directory = hosts.path().join("registry.test");
        std::fs::create_dir(&directory).unwrap();
        let text = format!(
            "server = \"http://{}\"\n[host.\"http://{}\"]\n",
            own.host(),
            mirror.host()
        );
        std::fs::write(directory.join("hosts.toml"), text).unwrap();
        setup.options.client.certificate_directories = vec![hosts.path().to_owned()];
        let reference = Reference::parse("registry.test/a/b").unwrap();
        let pulled = pull(&setup.store, &setup.options, &reference, None, &|_| {});
        if own_is_damaged {
            assert!(pulled.is_err());
        } else {
            pulled.unwrap();
            assert!(blob_requests(&mirror) > 0);
        }
        assert_eq!(partials(&setup), NOTHING);
    }
}
