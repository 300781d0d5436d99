//! The policy on keys and signatures: one test for each way to be refused.

use super::*;
use crate::verify::clearsign;
use crate::verify::openpgp::verify;
use proptest::prelude::*;

const TEXT: &str = "Suite: stable\n- dashed\nSHA256:\n line";

fn answer(message: &str, certificates: &[&Certificate]) -> &'static str {
    let certificates: Vec<Certificate> = certificates.iter().map(|one| (*one).clone()).collect();
    verify(message.as_bytes(), &certificates, now()).map_or_else(|refused| refused.code(), |_| "good")
}

/// The answer to a message by the subkey of a certificate made by `change`.
fn with(change: impl FnOnce(&mut Recipe)) -> &'static str {
    let mut recipe = Recipe::default();
    change(&mut recipe);
    let keys = recipe.make();
    answer(&keys.message(TEXT), &[&keys.certificate])
}

// proves N8
#[test]
fn a_good_signature_names_key_text_and_end() {
    let keys = Recipe::default().make();
    let good =
        verify(keys.message(TEXT).as_bytes(), std::slice::from_ref(&keys.certificate), now()).expect("good");
    assert_eq!(good.text(), format!("{TEXT}\n"));
    assert_eq!(good.fingerprint(), keys.certificate.fingerprint());
    let end = u64::from(CREATED) + 2_000 * u64::from(DAY);
    assert_eq!(good.holds_until(), Some(WallTime::from_unix_seconds(end)));
    assert_eq!(good.created().unix_seconds(), u64::from(NOW - DAY));
}

// proves N8
#[test]
fn each_bad_key_has_its_own_code() {
    assert_eq!(with(|_| ()), "good");
    assert_eq!(with(|recipe| recipe.revoke_primary = true), "key-revoked");
    assert_eq!(with(|recipe| recipe.revoke_subkey = true), "key-revoked");
    assert_eq!(with(|recipe| recipe.revoke_user = true), "key-unbound");
    assert_eq!(with(|recipe| recipe.primary_days = Some(999)), "key-expired");
    assert_eq!(with(|recipe| recipe.subkey_days = Some(999)), "key-expired");
    assert_eq!(with(|recipe| recipe.created = NOW + 1), "key-not-yet-valid");
    assert_eq!(with(|recipe| recipe.subkey_signs = false), "key-not-for-signing");
    assert_eq!(with(|recipe| recipe.back = Back::Missing), "no-back-signature");
    assert_eq!(with(|recipe| recipe.back = Back::ByPrimary), "no-back-signature");
    assert_eq!(with(|recipe| recipe.critical = true), "key-unbound");
    // The library drops a subkey without any binding, so its signature is one of a stranger.
    assert_eq!(with(|recipe| recipe.bound = false), "no-trusted-signer");
}

// proves N8
#[test]
fn weak_algorithms_are_refused_and_strong_ones_are_not() {
    let rsa = |bits| move |recipe: &mut Recipe| recipe.subkey = KeyType::Rsa(bits);
    assert_eq!(with(rsa(1_024)), "weak-key");
    assert_eq!(with(rsa(2_048)), "good");
    assert_eq!(with(|recipe| recipe.subkey = KeyType::ECDSA(pgp::crypto::ecc_curve::ECCCurve::P256)), "good");
    assert_eq!(with(|recipe| recipe.subkey = KeyType::Dsa(DsaKeySize::B2048)), "weak-key");
    let weak_binding = |recipe: &mut Recipe| {
        recipe.primary = KeyType::Rsa(2_048);
        recipe.subkey = KeyType::Rsa(2_048);
        recipe.digest = HashAlgorithm::Sha1;
    };
    assert_eq!(with(weak_binding), "weak-binding");

    let keys = Recipe { subkey: KeyType::Rsa(2_048), ..Recipe::default() }.make();
    for (digest, expected) in [
        (HashAlgorithm::Sha1, "weak-digest"),
        (HashAlgorithm::Sha224, "weak-digest"),
        (HashAlgorithm::Sha384, "good"),
        (HashAlgorithm::Sha512, "good"),
    ] {
        let message = clear_sign(TEXT, |text| vec![sign(&keys.subkey, digest, NOW - DAY, None, text)]);
        assert_eq!(answer(&message, &[&keys.certificate]), expected, "{digest}");
    }
}

// proves N8
#[test]
fn signatures_have_their_time_and_their_key() {
    let keys = Recipe::default().make();
    let signed = |created, days| {
        let message =
            clear_sign(TEXT, |text| vec![sign(&keys.subkey, HashAlgorithm::Sha256, created, days, text)]);
        answer(&message, &[&keys.certificate])
    };
    assert_eq!(signed(NOW - 2 * DAY, Some(1)), "signature-expired");
    assert_eq!(signed(NOW - 2 * DAY, Some(3)), "good");
    assert_eq!(signed(NOW + 1, None), "signature-in-future");
    assert_eq!(signed(CREATED - 1, None), "bad-signature");
    let by_primary =
        clear_sign(TEXT, |text| vec![sign(&keys.primary, HashAlgorithm::Sha256, NOW - DAY, None, text)]);
    assert_eq!(answer(&by_primary, &[&keys.certificate]), "key-not-for-signing");
    let signing = Recipe { primary_signs: true, ..Recipe::default() }.make();
    let by_primary =
        clear_sign(TEXT, |text| vec![sign(&signing.primary, HashAlgorithm::Sha256, NOW - DAY, None, text)]);
    assert_eq!(answer(&by_primary, &[&signing.certificate]), "good");
}

// proves N8
#[test]
fn strangers_are_ignored_beside_a_good_signature_only() {
    let keys = Recipe::default().make();
    let stranger = Recipe { seed: 2, ..Recipe::default() }.make();
    let both = clear_sign(TEXT, |text| {
        let by = |keys: &Keys| sign(&keys.subkey, HashAlgorithm::Sha256, NOW - DAY, None, text);
        vec![by(&stranger), by(&keys)]
    });
    assert_eq!(answer(&both, &[&keys.certificate]), "good");
    assert_eq!(answer(&stranger.message(TEXT), &[&keys.certificate]), "no-trusted-signer");
    assert_eq!(answer(&keys.message(TEXT), &[]), "no-trusted-signer");
    // A revoked key's signature beside a good one is ignored too; one that does not verify is not.
    let revoked = Recipe { seed: 2, revoke_primary: true, ..Recipe::default() }.make();
    assert_eq!(answer(&both, &[&keys.certificate, &revoked.certificate]), "good");
    let one_bad = clear_sign(TEXT, |text| {
        let by = |keys: &Keys, text: &str| sign(&keys.subkey, HashAlgorithm::Sha256, NOW - DAY, None, text);
        vec![by(&keys, text), by(&stranger, "another text")]
    });
    assert_eq!(answer(&one_bad, &[&keys.certificate, &stranger.certificate]), "bad-signature");
}

// proves N8
#[test]
fn a_revocation_counts_wherever_it_stands_and_survives_the_list_of_vendors() {
    let revoked = Recipe { revoke_subkey: true, ..Recipe::default() }.make();
    let mut packets = revoked.certificate.packets().to_vec();
    // The library reads a subkey's revocation after its subkey only; here it stands after the user.
    let revocation = packets.pop().expect("the revocation stands last");
    packets.insert(2, revocation);
    let moved = Certificate::from_packets(packets).expect("certificate");
    let armoured = moved.to_armoured().expect("armour");
    let stranger = Recipe { seed: 2, ..Recipe::default() }.make();
    for certificate in [&moved, &Certificate::parse(&armoured).expect("certificate")] {
        assert_eq!(answer(&revoked.message(TEXT), &[certificate]), "key-revoked");
    }
    // What a stranger says about the key is neither obeyed nor kept.
    let good = Recipe::default().make();
    let mut packets = good.certificate.packets().to_vec();
    let claim =
        config(SignatureType::KeyRevocation, &stranger.primary, HashAlgorithm::Sha256, NOW, Vec::new());
    let claim = claim.sign_key(&stranger.primary, &Password::empty(), good.primary.public_key());
    packets.insert(1, pgp::packet::Packet::Signature(claim.expect("signature")));
    let claimed = Certificate::from_packets(packets).expect("certificate");
    assert_eq!(answer(&good.message(TEXT), &[&claimed]), "good");
    assert_eq!(claimed.packets(), good.certificate.packets());
}

// proves N8
#[test]
fn frames_that_hide_text_are_malformed() {
    let keys = Recipe::default().make();
    let good = keys.message(TEXT);
    let certificates = [&keys.certificate];
    assert_eq!(answer(&good.replace('\n', "\r\n"), &certificates), "good", "line ends are not signed");
    assert_eq!(answer(&good.replace("SHA256:\n", "SHA256: \t\n"), &certificates), "good", "nor their blanks");
    let twice = format!("{good}{good}");
    let before = format!("Suite: evil\n{good}");
    let after = format!("{good}\nSuite: evil\n");
    let header = good.replacen("Hash:", "Suite:", 1);
    let text_in_header = good.replacen("\n\n", "\nSuite: evil\n\n", 1);
    let undashed = good.replacen("- - dashed", "-dashed", 1);
    let carriage = good.replacen("Suite: stable", "Suite: evil\rSuite: stable", 1);
    let unended = good.replacen("-----END PGP SIGNATURE-----", "", 1);
    for hostile in [&twice, &before, &after, &header, &text_in_header, &undashed, &carriage, &unended] {
        assert_eq!(answer(hostile, &certificates), "malformed", "{hostile}");
    }
    let unannounced = good.replacen("Hash: SHA256\n", "", 1);
    assert_eq!(answer(&unannounced, &certificates), "weak-digest");
    let changed = good.replacen("stable", "evil", 1);
    assert_eq!(answer(&changed, &certificates), "bad-signature");
}

// proves N8: no single changed byte yields another text.
#[test]
fn flipped_bytes_never_change_what_is_believed() {
    let keys = Recipe::default().make();
    let good = keys.message(TEXT).into_bytes();
    for at in 0..good.len() {
        for bit in [0, 5] {
            let mut flipped = good.clone();
            flipped[at] ^= 1 << bit;
            if let Ok(signed) = verify(&flipped, std::slice::from_ref(&keys.certificate), now()) {
                assert_eq!(signed.text(), format!("{TEXT}\n"), "byte {at}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in any::<prop::sample::Index>()) {
        let _ = clearsign::parse(&bytes);
        let _ = Certificate::parse_keyring(&bytes);
        let framed = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nx\n-----BEGIN PGP SIGNATURE-----\n\n{}\n\
             -----END PGP SIGNATURE-----\n",
            data_encoding::BASE64.encode(&bytes)
        );
        let _ = clearsign::parse(framed.as_bytes());
        // Damage to a real keyring goes deeper than noise does.
        let mut keyring = data_encoding::BASE64.decode(CERTIFICATE.with(|text| text.clone()).as_bytes()).expect("base64");
        let at = at.index(keyring.len());
        keyring[at] ^= bytes.first().copied().unwrap_or(1);
        keyring.truncate(keyring.len() - bytes.len() % 7);
        if let Ok(certificates) = Certificate::parse_keyring(&keyring) {
            let message = MESSAGE.with(|text| text.clone());
            let _ = verify(message.as_bytes(), &certificates, now());
        }
    }
}

thread_local! {
    static CERTIFICATE: String = {
        let armoured = Recipe::default().make().certificate.to_armoured().expect("armour");
        let lines = armoured.lines().filter(|line| !line.starts_with(['-', '=']) && !line.contains(": "));
        lines.collect()
    };
    static MESSAGE: String = Recipe::default().make().message(TEXT);
}
