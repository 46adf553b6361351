//! The form of a program: its size and its speed.

use super::*;

/// The search is a tree: no call waits behind as many comparisons as there are rules.
#[test]
fn the_search_is_balanced() {
    // Every second call, so that nothing can be merged.
    let names: Vec<&str> = (0..335)
        .step_by(2)
        .filter_map(|wanted| {
            let mut rows = table::SYSTEM_CALLS.iter();
            rows.find(|(_, row)| row[0] == wanted)
        })
        .map(|(name, _)| *name)
        .collect();
    assert!(names.len() > 150, "{}", names.len());
    let sparse = profile("SCMP_ACT_ERRNO", &[], vec![rule(&names, "SCMP_ACT_ALLOW")]);
    let program = compile_for(&sparse, Architecture::X86_64).unwrap();
    check_shape(&program);
    for number in 0..400 {
        let call = Call {
            number,
            audit: AUDIT_X86_64,
            ..Call::default()
        };
        let (_, executed) = run(&program, &call);
        // Two loads, the architecture, 335 ranges (nine steps), perhaps a jump, the return.
        assert!(executed <= 15, "{executed} instructions for call {number}");
    }
}

/// Unknown names are skipped; a profile that outgrows the kernel's limit is an error.
#[test]
fn a_program_beyond_the_kernels_limit_is_refused() {
    let mut rules = vec![rule(&["not_a_call"], "SCMP_ACT_KILL")];
    for value in 0..900 {
        let mut next = rule(&["read"], "SCMP_ACT_ERRNO");
        next.args = vec![arg(0, "SCMP_CMP_EQ", value, 0)];
        rules.push(next);
    }
    let large = profile("SCMP_ACT_ALLOW", &[], rules.clone());
    let program = compile_for(&large, Architecture::X86_64).unwrap();
    check_shape(&program);
    let call = |first| Call {
        number: 0,
        audit: AUDIT_X86_64,
        arguments: [first, 0, 0, 0, 0, 0],
    };
    assert_eq!(run(&program, &call(899)).0, EPERM);
    assert_eq!(run(&program, &call(900)).0, ALLOW);

    rules.extend(rules.clone());
    let error = compile_for(&profile("SCMP_ACT_ALLOW", &[], rules), Architecture::X86_64);
    assert!(matches!(error, Err(SeccompError::TooLarge { instructions }) if instructions > 4096));
}

#[test]
fn a_program_survives_its_cached_form() {
    let program = default_program(CapabilitySet::DEFAULT, Architecture::NATIVE).unwrap();
    let bytes = program.to_bytes();
    assert_eq!(Program::from_bytes(&bytes), Ok(program));
    assert_eq!(
        Program::from_bytes(&bytes[..bytes.len() - 1]),
        Err(ProgramError::Length {
            length: bytes.len() - 1
        })
    );
    for length in 0..16 {
        assert!(Program::from_bytes(&bytes[..length]).is_err(), "{length}");
    }
    let mut other = bytes.clone();
    other[3] += 1;
    assert_eq!(Program::from_bytes(&other), Err(ProgramError::Format));
    let mut long = bytes;
    long.resize(8 + 8 * 4097, 0);
    assert!(Program::from_bytes(&long).is_err());
}

/// Common calls stay cheap also where the kernel does not cache verdicts (before 5.11).
#[test]
fn common_calls_take_few_instructions() {
    let program = default_program(CapabilitySet::DEFAULT, Architecture::X86_64).unwrap();
    let mut total = 0;
    let names = ["read", "write", "openat", "futex"];
    for name in names {
        let call = Call {
            number: number(name, Architecture::X86_64).unwrap(),
            audit: AUDIT_X86_64,
            arguments: [0; 6],
        };
        let (verdict, executed) = run(&program, &call);
        assert_eq!(verdict, ALLOW, "{name}");
        total += executed;
    }
    eprintln!(
        "{} instructions, {} executed on average",
        program.instructions.len(),
        total as f64 / names.len() as f64
    );
    assert!(total <= 12 * names.len(), "{total}");
}

#[test]
#[ignore = "a measurement, for a release build"]
fn time_of_compiling_the_default_profile() {
    let native = Architecture::NATIVE;
    let profile = default_profile(CapabilitySet::DEFAULT, native);
    let measure = |what: &str, work: &dyn Fn()| {
        let mut best = f64::MAX;
        for _ in 0..200 {
            let start = std::time::Instant::now();
            work();
            best = best.min(start.elapsed().as_secs_f64() * 1e6);
        }
        eprintln!("{what}: {best:.1} us");
    };
    measure("default_profile", &|| {
        std::hint::black_box(default_profile(CapabilitySet::DEFAULT, native));
    });
    measure("compile", &|| {
        std::hint::black_box(compile_for(&profile, native).unwrap());
    });
    measure("default_program", &|| {
        std::hint::black_box(default_program(CapabilitySet::DEFAULT, native).unwrap());
    });
    let bytes = default_program(CapabilitySet::DEFAULT, native)
        .unwrap()
        .to_bytes();
    measure("from_bytes", &|| {
        std::hint::black_box(Program::from_bytes(&bytes).unwrap());
    });
}
