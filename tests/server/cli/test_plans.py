"""Plans: what people sign, apart from any server. Real keys, real metadata."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from beamfleet_bundles import chain, keys, repository
from beamfleet_bundles.errors import BeamfleetError
from beamfleet_bundles.repository import RoleKeys
from beamfleet_bundles.whereabouts import Whereabouts
from beamfleet_server.cli import plans
from beamfleet_server.cli.ceremony import Draft, changed, checked, find, half_life, select
from beamfleet_server.cli.changes import describe
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.plans import Held, Plan
from beamfleet_server.cli.witness import Witness
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata

from tests.support.repository import manifest

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PRODUCT = "my-app"


class Person(CryptoSigner):
    """Somebody with a named key."""

    def __init__(self, name: str) -> None:
        made = CryptoSigner.generate_ed25519()
        key = keys.named(made.public_key, name)
        assert isinstance(key, SSlibKey)
        super().__init__(made._private_key, key)


def people(*names: str) -> list[Person]:
    return [Person(name) for name in names]


ANNA, BEN, CARL, DORA, EMIL, FRED = people("anna", "ben", "carl", "dora", "emil", "fred")
ONLINE = {role: CryptoSigner.generate_ed25519() for role in ("snapshot", "timestamp", "director")}


def of(*signers: CryptoSigner, threshold: int = 2) -> RoleKeys:
    return RoleKeys(tuple(signer.public_key for signer in signers), threshold)


def draft(held: Held, now: datetime = NOW, **versions: int) -> Draft:
    return Draft(held, versions, now)


def first(*holders: CryptoSigner, threshold: int = 2, held: Held | None = None) -> Plan:
    made = draft(held or Held())
    made.first(
        {
            "root": of(*holders, threshold=threshold),
            "targets": of(*holders, threshold=threshold),
            "snapshot": of(ONLINE["snapshot"], threshold=1),
            "timestamp": of(ONLINE["timestamp"], threshold=1),
        },
        of(ONLINE["director"], threshold=1),
    )
    return made.plan("the beginning", "https://fleet.example")


def signed(plan: Plan, *signers: CryptoSigner) -> Plan:
    for signer in signers:
        plan = plan.sign(signer)
    return plan


def carried_out(plan: Plan, *signers: CryptoSigner) -> Held:
    """What is held after the plan was signed and published."""
    after = signed(plan, *signers)
    assert after.complete
    root = after.documents.get("root")
    roots = (*after.held.roots, root) if root else after.held.roots
    products = {name: data for name, data in after.documents.items() if name not in ("root", "targets")}
    return Held(roots, after.documents.get("targets", after.held.targets), {**after.held.products, **products})


@pytest.fixture(scope="module")
def held() -> Held:
    """Root and targets by two of anna, ben and carl; the product my-app by dora or emil, with one release."""
    start = carried_out(first(ANNA, BEN, CARL), ANNA, BEN)
    made = draft(start)
    made.add_product(PRODUCT, of(DORA, EMIL, threshold=1))
    after = carried_out(made.plan("a product", ""), BEN, CARL, DORA)
    released, _ = repository.add_release(after.products[PRODUCT], manifest(product=PRODUCT), [DORA], NOW)
    return replace(after, products={PRODUCT: released})


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(BeamfleetError) as refused:
        action()
    return refused.value.code


def rotated(held: Held, role: str, remove: Sequence[str], add: Sequence[Person], threshold: int | None = None) -> Plan:
    made = draft(held)
    before = made.role(role)
    made.change(role, changed(before, select(before, remove), [each.public_key for each in add], threshold, role))
    return made.plan("other keys", "")


# -- who has to sign


def test_the_first_root_is_complete_with_two_of_three_and_not_with_one() -> None:
    plan = first(ANNA, BEN, CARL)
    once, twice = signed(plan, ANNA), signed(plan, ANNA, CARL)
    assert (plan.complete, once.complete, twice.complete) == (False, False, True)
    assert [row.missing for row in once.wanted] == [1, 1]
    root = chain.verify_root(twice.documents["root"], None)
    chain.verify_targets(twice.documents["targets"], root)
    assert code_of(lambda: chain.verify_root(once.documents["root"], None)) == "trust.signature"


def test_the_same_person_twice_is_one_signature() -> None:
    assert not signed(first(ANNA, BEN, CARL), ANNA, ANNA).complete


def test_who_is_nobody_here_cannot_sign() -> None:
    assert code_of(lambda: first(ANNA, BEN, CARL).sign(FRED)) == "plan.not_wanted"


def test_those_who_are_missing_are_named() -> None:
    assert plans.show_missing(signed(first(ANNA, BEN, CARL), BEN)) == [
        f"{document} needs 1 more signature by root 1: {plans.show_key(ANNA.public_key)} or "
        f"{plans.show_key(CARL.public_key)}"
        for document in ("root", "targets")
    ]


def test_copies_that_were_signed_apart_are_put_together(tmp_path: Path) -> None:
    first(ANNA, BEN, CARL).write(tmp_path / "plan")
    for name, person in (("a", ANNA), ("b", BEN)):
        plans.read(tmp_path / "plan").sign(person).write(tmp_path / name)
    whole = plans.merge([plans.read(tmp_path / "a"), plans.read(tmp_path / "b")])
    assert whole.complete
    assert plans.merge([whole]) == whole


def test_two_plans_are_not_put_together(held: Held) -> None:
    one, other = first(ANNA, BEN, CARL), first(ANNA, BEN, DORA)
    assert code_of(lambda: plans.merge([one, other])) == "plan.different"
    assert code_of(lambda: plans.merge([one, replace(one, held=held)])) == "plan.different"


# -- what follows from a change


def test_a_new_root_key_needs_the_old_keys_and_the_new_ones(held: Held) -> None:
    plan = rotated(held, "root", ["ben", "carl"], [DORA, EMIL])
    assert not signed(plan, BEN, CARL).complete
    assert not signed(plan, DORA, EMIL).complete
    assert not signed(plan, ANNA, DORA).complete
    after = carried_out(plan, ANNA, BEN, DORA)
    chain.verify_root(after.roots[-1], chain.parse_root(after.roots[-2]).signed)
    assert list(plan.documents) == ["root"]


def test_other_keys_of_targets_mean_a_new_root_and_targets_signed_again(held: Held) -> None:
    plan = rotated(held, "targets", ["ben"], [FRED])
    assert list(plan.documents) == ["root", "targets"]
    after = carried_out(plan, ANNA, CARL)
    root = chain.parse_root(after.roots[-1]).signed
    chain.verify_targets(after.targets, root)
    assert BEN.public_key.keyid not in root.roles["targets"].keyids
    assert BEN.public_key.keyid in root.roles["root"].keyids


def test_other_keys_of_a_product_mean_new_targets_and_its_list_signed_again(held: Held) -> None:
    plan = rotated(held, PRODUCT, ["dora"], [FRED])
    assert list(plan.documents) == ["targets", PRODUCT]
    assert not signed(plan, ANNA, BEN).complete
    assert code_of(lambda: plan.sign(DORA)) == "plan.not_wanted"
    after = carried_out(plan, ANNA, BEN, EMIL)
    top = chain.verify_targets(after.targets, chain.parse_root(after.roots[-1]).signed)
    assert len(chain.verify_product(after.products[PRODUCT], PRODUCT, top).targets) == 1
    assert top.delegations is not None
    assert DORA.public_key.keyid not in top.delegations.keys


def test_other_online_keys_are_named_by_root_and_targets(held: Held) -> None:
    made = draft(held)
    assert not made.online({role: signer.public_key for role, signer in ONLINE.items()})
    new = {role: CryptoSigner.generate_ed25519() for role in ONLINE}
    assert made.online({role: signer.public_key for role, signer in new.items()})
    after = carried_out(made.plan("after a theft", ""), ANNA, BEN)
    root = chain.parse_root(after.roots[-1]).signed
    top = chain.verify_targets(after.targets, root)
    stolen = {signer.public_key.keyid for signer in ONLINE.values()}
    assert top.delegations is not None
    assert stolen & (root.keys.keys() | top.delegations.keys.keys()) == set()


def test_development_keys_are_replaced_by_one_plan_that_the_old_key_signs_too() -> None:
    alone = Person("development")
    start = carried_out(first(alone, threshold=1), alone)
    plan = first(ANNA, BEN, CARL, held=start)
    assert not signed(plan, ANNA, BEN).complete
    after = carried_out(plan, alone, ANNA, BEN)
    assert chain.parse_root(after.roots[-1]).signed.version == 2
    assert chain.parse_top_targets(after.targets).signed.version == 2


def test_a_new_life_changes_nothing_but_version_and_expiry(held: Held) -> None:
    later = NOW + timedelta(days=300)
    made = draft(held, later)
    for role in ("root", "targets", PRODUCT):
        made.renew(role)
    plan = made.plan("a new life", "")
    for name, data in plan.documents.items():
        before = held.roots[-1] if name == "root" else held.targets if name == "targets" else held.products[name]
        one, two = (json.loads(document)["signed"] for document in (before, data))
        assert two.pop("version") == one.pop("version") + 1
        assert two.pop("expires") > one.pop("expires")
        assert one == two


def test_versions_are_never_below_what_others_have_seen(held: Held) -> None:
    made = Draft(held, {"targets": 40, PRODUCT: 70}, NOW)
    made.renew("targets")
    made.renew(PRODUCT)
    plan = made.plan("", "")
    assert chain.parse_top_targets(plan.documents["targets"]).signed.version == 40
    assert chain.parse_targets(plan.documents[PRODUCT], PRODUCT).signed.version == 70


# -- whom one means


def test_a_key_is_meant_by_its_name_its_id_or_its_file(held: Held, tmp_path: Path) -> None:
    role = draft(held).role("root")
    keys.write_public(tmp_path / "ben.pub", BEN.public_key)
    for word in ("ben", BEN.public_key.keyid[:8], BEN.public_key.keyid, str(tmp_path / "ben.pub")):
        assert select(role, [word]) == [BEN.public_key]
    for word in ("nobody", BEN.public_key.keyid[:7], "", "be"):
        assert code_of(lambda word=word: select(role, [word])) == "plan.key"  # type: ignore[misc]


def test_a_name_that_two_have_means_neither() -> None:
    twins = of(Person("twin"), Person("twin"))
    assert code_of(lambda: select(twins, ["twin"])) == "plan.key"


def test_a_key_is_found_in_every_role_that_it_has(held: Held) -> None:
    assert find(draft(held), "anna") == ["root", "targets"]
    assert find(draft(held), "dora") == [PRODUCT]
    assert code_of(lambda: find(draft(held), "fred")) == "plan.key"


def test_a_role_that_could_not_be_signed_for_any_more_is_refused() -> None:
    role = of(ANNA, BEN)
    assert code_of(lambda: changed(role, [BEN.public_key], [], None, "root")) == "plan.threshold"
    assert code_of(lambda: checked(of(ANNA, ANNA), "root")) == "plan.key"
    assert changed(role, [BEN.public_key], [CARL.public_key], None, "root") == of(ANNA, CARL)


def test_half_of_a_life_is_half_of_what_the_role_is_given(held: Held) -> None:
    root = chain.parse_root(held.roots[-1]).signed
    assert half_life("root", root) == NOW + timedelta(days=365)
    assert half_life(PRODUCT, chain.parse_targets(held.products[PRODUCT], PRODUCT).signed) == NOW + timedelta(
        hours=4380
    )


# -- what is said before somebody signs


def test_the_words_tell_every_change_and_what_stays(held: Held) -> None:
    told = "\n".join(describe(rotated(held, "targets", ["ben"], [FRED], 3)))
    ids = {person: plans.show_key(person.public_key) for person in (ANNA, BEN, CARL, FRED)}
    assert "root 1 -> 2" in told
    assert (
        f"  targets: 3 of 3 keys: {ids[ANNA]}, {ids[CARL]}, {ids[FRED]} "
        f"(adds {ids[FRED]}; takes away {ids[BEN]}; threshold 2 -> 3)"
    ) in told
    assert f"  root: 2 of 3 keys: {ids[ANNA]}, {ids[BEN]}, {ids[CARL]} (unchanged)" in told
    assert "  devices look for the server at: where they were flashed for (unchanged)" in told
    assert "  good until 2028-02-29" in told
    product = "\n".join(describe(rotated(held, PRODUCT, ["dora"], [FRED])))
    assert "my-app 2 -> 3\n  1 signed bundles, unchanged" in product


def test_new_whereabouts_are_told(held: Held) -> None:
    made = draft(held)
    server = {"api": "https://new.example:8444", "enrol": "https://new.example:8445", "mqtt": "new.example:8883"}
    from beamfleet_bundles import whereabouts

    made.tell(whereabouts.make([], [server]))
    told = describe(made.plan("moved", ""))
    assert "  devices look for the server at: https://new.example:8444" in told
    assert Whereabouts() == whereabouts.read(chain.parse_top_targets(held.targets).signed)


# -- what does not hold is not signed


def tampered(plan: Plan, path: Path, change: Callable[[Any], None]) -> Path:
    plan.write(path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


def in_document(name: str, change: Callable[[Any], None]) -> Callable[[Any], None]:
    def changing(plan: Any) -> None:
        document = json.loads(plan["documents"][name])
        change(document["signed"])
        plan["documents"][name] = json.dumps(document)

    return changing


def replaced(key: str, value: object) -> Callable[[Any], None]:
    return lambda document: document.update({key: value})


def of_a_thief(plan: Any) -> None:
    """Builds on a root that the roots before it do not vouch for."""
    document: Metadata[Any] = Metadata.from_bytes(plan["held"]["roots"][-1].encode())
    document.signed.version += 1
    document.signatures.clear()
    document.sign(FRED)
    plan["held"]["roots"].append(document.to_bytes().decode())


@pytest.mark.parametrize(
    "change",
    [
        replaced("beamfleet_plan", 2),
        replaced("more", 1),
        replaced("title", 7),
        replaced("documents", {}),
        replaced("documents", {"targets": "\ud800"}),
        replaced("documents", {"targets": "{}"}),
        replaced("documents", {"root": 7}),
        lambda plan: plan["held"].update(targets=""),
        lambda plan: plan["held"].update(roots=[]),
        lambda plan: plan["held"]["roots"].pop(0),
        of_a_thief,
        in_document("targets", replaced("version", 2)),
        in_document("targets", lambda signed: signed["delegations"]["roles"][1].update(paths=["*"])),
        in_document("targets", lambda signed: signed["delegations"]["roles"][1].update(threshold=3)),
        in_document("targets", lambda signed: signed["delegations"]["roles"].pop()),
        in_document("targets", lambda signed: signed.update(beamfleet={"servers": [{"api": "http://x:1"}]})),
        in_document("targets", lambda signed: signed["delegations"]["keys"].popitem()),
        in_document(PRODUCT, lambda signed: signed.update(targets={})),
        in_document(PRODUCT, replaced("version", 1)),
    ],
)
def test_a_plan_that_does_not_hold_is_not_read(change: Callable[[Any], None], held: Held, tmp_path: Path) -> None:
    two = replace(held, roots=carried_out(rotated(held, "root", [], [DORA]), ANNA, BEN, DORA).roots)
    plan = rotated(two, PRODUCT, ["dora"], [FRED])
    plan.write(tmp_path / "good")
    assert plans.read(tmp_path / "good") == plan
    assert code_of(lambda: plans.read(tampered(plan, tmp_path / "bad", change))) == "plan.malformed"


def test_two_ids_for_one_key_are_not_two_people(held: Held, tmp_path: Path) -> None:
    def double(signed: Any) -> None:
        key = dict(signed["keys"][ANNA.public_key.keyid])
        signed["keys"]["f" * 64] = key
        signed["roles"]["root"]["keyids"] = [ANNA.public_key.keyid, "f" * 64]

    plan = rotated(held, "root", ["ben"], [DORA])
    path = tampered(plan, tmp_path / "plan", in_document("root", double))
    assert code_of(lambda: plans.read(path)) == "plan.malformed"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 100_000, b"\xff\xfe"])
def test_a_file_that_is_no_plan_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(content)
    assert code_of(lambda: plans.read(tmp_path / "plan")) == "plan.malformed"
    assert code_of(lambda: plans.read(tmp_path / "none")) == "file.unreadable"


def test_a_key_signs_only_what_goes_on_from_what_it_has_signed_upon(held: Held, tmp_path: Path) -> None:
    witness, keyid = Witness(tmp_path), ANNA.public_key.keyid
    other = carried_out(first(ANNA, BEN, CARL), ANNA, BEN)
    later = replace(held, roots=carried_out(rotated(held, "root", [], [DORA]), ANNA, BEN, DORA).roots)
    witness.check(keyid, held)
    witness.remember(keyid, later)
    witness.check(keyid, later)
    assert code_of(lambda: witness.check(keyid, held)) == "plan.other_fleet"
    assert code_of(lambda: witness.check(keyid, other)) == "plan.other_fleet"
    assert code_of(lambda: witness.check(keyid, Held())) == "plan.other_fleet"
    witness.check(BEN.public_key.keyid, other)


def test_every_code_of_a_plan_is_one_of_the_command_line() -> None:
    with pytest.raises(KeyError):
        CommandError("plan.made_up", "")
