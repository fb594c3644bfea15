"""What users of routers ask for, and have lost images by: each of it has a test, which is named here.

What is not in the table is no task of the gateway yet: to change elements on the way, to decode and encode
pixels, to fetch what was there before a new study, to send by STOW-RS, to pack a series into one object.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

_ASKED, _GATEWAY = "gateway/test_gateway_asked.py", "gateway/test_gateway.py"
_RESENDING, _RULES = "gateway/test_gateway_resending.py", "gateway/test_gateway_rules.py"
_SENDER = "gateway/test_gateway_sender.py"

# What is wanted -> the tests of it: a file, and names in it.
ASKED: dict[str, dict[str, tuple[str, ...]]] = {
    "instances go on at once; a study that is complete is only a trigger, and what is late arms it again": {
        _ASKED: ("test_an_instance_goes_on_while_its_association_is_open",),
        _RESENDING: (
            "test_a_study_goes_when_it_is_stable_and_what_comes_later_then",
            "test_a_study_that_became_stable_while_nobody_looked_goes_at_the_next_start",
        ),
        "gateway/test_gateway_stable.py": (
            "test_what_waits_when_the_seconds_change_goes_by_the_new_ones",
            "test_what_cannot_be_routed_is_listed_and_goes_when_it_can_be",
        ),
    },
    "of two who claim the same at the same time one gets it": {
        _ASKED: ("test_who_claims_at_the_same_time_never_gets_the_same",),
        "archive/test_archive_processes.py": (
            "test_what_two_processes_claim_at_the_same_time_one_of_them_gets",
            "test_what_one_process_has_claimed_another_leaves_until_the_lease_ends",
        ),
    },
    "a small box with delayed acknowledgements is not slow": {
        _ASKED: ("test_a_small_box_is_acknowledged_at_once",)
    },
    "all transfer syntaxes are taken and passed as they came": {
        _GATEWAY: ("test_compressed_instances_pass_as_they_came",)
    },
    "rules are ordered and may stop, there is one default, and it is explained which one has fired": {
        _RULES: (
            "test_rules_are_asked_in_order_until_one_stops",
            "test_the_default_is_for_what_no_rule_takes",
            "test_what_no_rule_fits_is_unrouted",
        ),
        "cli/test_cli_route.py": ("test_it_is_explained_where_a_file_goes",),
    },
    "TLS on both sides": {
        "gateway/test_gateway_renewing.py": (
            "test_what_came_by_tls_is_sent_on_by_tls",
            "test_what_came_by_tls_is_not_sent_on_in_the_clear_unless_it_is_written",
        )
    },
    "what was acknowledged is delivered after any crash, to each destination by itself": {
        "gateway/test_gateway_kill.py": ("test_nothing_is_lost",),
        "gateway/test_gateway_kill_calls.py": ("test_kill_at_every_call",),
        "archive/test_archive_outbox_kill.py": ("test_kill_at_every_statement",),
    },
    "a sender is answered when it is stored; destinations depend on nothing of each other": {
        _ASKED: ("test_a_sender_is_answered_though_no_destination_is",),
        _GATEWAY: ("test_a_destination_that_is_down_holds_up_nobody_and_gets_it_later",),
    },
    "what a destination has said is kept with the delivery, and shown": {
        _ASKED: ("test_what_a_destination_says_is_kept_and_shown",)
    },
    "rules look at AE titles, address and certificate; a destination may be named by an instance": {
        _RULES: ("test_a_rule_fits",),
        "gateway/test_gateway_seen.py": (
            "test_texts_are_read_by_their_character_set",
            "test_a_function_of_an_installed_package_sees_what_the_index_has",
        ),
        _RESENDING: ("test_a_destination_is_named_by_what_an_instance_is",),
    },
    "a pool for each destination, which proposes what was seen and is bounded": {
        _ASKED: ("test_a_new_kind_is_proposed_with_those_seen_and_no_more_come_at_once_than_may",),
        "gateway/test_gateway_many.py": ("test_a_place_is_given_to_those_who_wait_after_each_instance",),
    },
    "what fails is tried again later and later, up to a bound": {
        _SENDER: ("test_pauses_grow_and_are_shortened_at_random", "test_a_days_outage_burns_no_attempts")
    },
    "a warning is a delivery, unless the destination means it otherwise": {
        _ASKED: (
            "test_a_warning_is_a_delivery_unless_the_destination_says_not",
            "test_only_a_warning_can_be_no_delivery",
        )
    },
    "what a process has claimed that is gone is taken up again, and what nobody does is seen": {
        _ASKED: ("test_a_lease_that_is_forgotten_ends_and_what_nobody_does_is_seen",)
    },
    "work is bound to a destination and to no machine": {
        _ASKED: ("test_what_one_host_owes_another_can_send",)
    },
    "very many are retried and dropped at once, to the last": {
        _ASKED: ("test_many_at_once_are_tried_again_and_dropped",),
        "archive/test_archive_outbox_many.py": ("test_a_retry_of_very_many_is_made_page_by_page",),
    },
    "the same again is sent again if that is wanted, and only then": {
        _GATEWAY: ("test_the_same_again_is_not_sent_again",),
        _RESENDING: ("test_what_comes_again", "test_what_still_waits_is_not_sent_twice_and_each_time_counts"),
    },
    "one caller who asks without end takes nothing from the others": {
        "test_limits.py": (
            "test_a_noisy_title_keeps_nobody_else_out",
            "test_strangers_leave_a_share_to_known_peers",
        )
    },
    "a Move Originator is forwarded, and a destination called as by the sender, when asked for": {
        _RESENDING: (
            "test_a_move_originator_is_forwarded_when_it_is_asked_for",
            "test_a_destination_is_called_as_whoever_has_sent",
        )
    },
    "nothing is deleted that a delivery or a row needs, killed at any time": {
        _ASKED: ("test_a_file_that_has_gone_for_another_takes_no_delivery_with_it",),
        "archive/test_archive_delete_kill.py": ("test_killed_at_every_call",),
    },
    "a configuration is judged as a whole before anything begins": {
        _ASKED: ("test_an_empty_destination_is_seen_before_anything_begins",)
    },
    "large instances take no more memory than small ones": {
        _ASKED: ("test_a_large_instance_takes_no_more_memory_than_a_small_one",)
    },
    "a study on one association": {
        _GATEWAY: ("test_a_study_goes_on_an_association_of_its_own",),
        _SENDER: ("test_a_study_has_an_association_of_its_own",),
        "gateway/test_gateway_group.py": (
            "test_what_comes_one_after_the_other_goes_on_one_association",
            "test_all_that_waits_of_a_study_goes_on_one_association",
            "test_an_association_ends_when_nothing_of_its_study_has_come_for_a_while",
        ),
    },
    "delivered is only what the destination says it has": {
        _GATEWAY: ("test_a_refusal_for_lack_of_room_is_no_delivery_and_burns_no_attempt",),
        "gateway/test_gateway_verdicts.py": ("test_only_success_and_warnings_are_deliveries",),
    },
    "a poison instance steps aside": {
        _GATEWAY: (
            "test_one_that_is_refused_each_time_delays_the_others_by_one_attempt",
            "test_one_that_kills_its_associations_delays_the_others_by_one_attempt",
        )
    },
    "what the peer has no context for fails at once and is told": {
        _GATEWAY: ("test_what_the_peer_has_no_context_for_fails_at_once",),
        _ASKED: ("test_refused_ones_fail_together_and_nobody_waits",),
    },
    "after any doubt a new association, and the whole instance again": {
        _ASKED: ("test_after_half_an_instance_the_whole_of_it_goes_on_another_association",)
    },
    "a route that keeps no copy": {
        "archive/test_archive_retention.py": (
            "test_only_what_was_delivered",
            "test_to_certain_destinations",
        )
    },
    "routing, with its monitor and its retries, is what the package has": {
        "docs/test_recipes.py": ("test_the_gateway_loses_nothing_when_it_is_killed",),
        "cli/test_cli_route.py": (
            "test_what_an_archive_owes_is_shown_tried_again_and_dropped",
            "test_a_gateway_is_asked_and_told",
        ),
    },
    "no rule is run as code": {_ASKED: ("test_no_rule_is_ever_run_as_code",)},
}


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text("utf-8"))
    found = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(each.name for each in tree.body if isinstance(each, found))


@pytest.mark.parametrize("what", ASKED)
def test_what_is_asked_for_has_a_test(what: str) -> None:
    assert ASKED[what]
    for file, names in ASKED[what].items():
        assert names
        assert set(names) <= names_in(file), (file, set(names) - names_in(file))
