"""What of the archive's tests is about one index engine, or one place of the instances, and why.

All of `tests/archive` runs where the variable ASYNCDICOM_ARCHIVE says, as `postgresql+s3`: index engine, and
what has the instances. Left out is what this table has, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

__all__ = [
    "IN_BUCKET",
    "IN_BUCKET_TOO",
    "LEFT_OUT",
    "NOT_IN_EVERY_RUN",
    "ON_BOTH",
    "PLACE",
    "LeftOut",
    "in_every_run",
    "is_left_out",
]

PLACE = os.environ.get("ASYNCDICOM_ARCHIVE", "")
"""Where the archives of this run are; empty: some of the tests run in several places, see `in_every_run`."""

WHOLE: tuple[str, ...] = ()
"""All tests of a module."""


class LeftOut(NamedTuple):
    """``needs``: the kind without which the tests say nothing, or "nothing": they choose it themselves."""

    needs: str
    why: str
    tests: Mapping[str, tuple[str, ...]]
    """By module."""


LEFT_OUT = (
    LeftOut(
        "nothing",
        "they name index and place themselves, so they run once",
        {
            "test_archive_balanced": WHOLE,
            "test_archive_blobs": WHOLE,
            "test_archive_hints": WHOLE,
            "test_archive_outbox_postgres": WHOLE,
            "test_archive_postgres": WHOLE,
            "test_archive_processes": WHOLE,
            "test_archive_s3": WHOLE,
            "test_archive_s3_kill": WHOLE,
            "test_archive_s3_moto": WHOLE,
            "test_archive_several": WHOLE,
            "test_archive_several_faults": WHOLE,
            "test_archive_several_served": WHOLE,
        },
    ),
    LeftOut(
        "nothing",
        "no archive is opened",
        {
            "test_archive_places": WHOLE,
            "test_archive_text": WHOLE,
            "test_archive_workers": WHOLE,
            "test_archive_aside": (
                "test_a_refusal_is_a_failure",
                "test_every_outcome_has_an_answer_that_fits",
            ),
            "test_archive_hostile": (
                "test_the_worst_patterns_come_to_an_end",
                "test_what_would_take_too_long_is_refused_before_it_runs",
                "test_a_longer_pattern_is_refused",
                "test_long_values_come_to_an_end",
            ),
        },
    ),
    LeftOut(
        "sqlite",
        "about the file of SQLite: what it is, what is damaged in it, and who may open it",
        {
            "test_archive_faults": ("test_a_damaged_index_is_told_and_sweeps_nothing",),
            "test_archive_index": WHOLE,
            "test_archive_kept": (
                "test_an_index_without_its_wal",
                "test_the_index_of_another_archive_is_refused_and_can_be_replaced",
                "test_modes_do_not_depend_on_the_umask",
            ),
            "test_archive_migrations": WHOLE,
            "test_archive_peers": ("test_an_index_without_the_table_gets_it",),
            "test_archive_queries": WHOLE,
            "test_archive_store": (
                "test_an_index_that_is_none",
                "test_an_index_of_another_version",
                "test_two_archives_on_one_folder",
            ),
        },
    ),
    LeftOut(
        "sqlite",
        "with PostgreSQL nothing is begun while it is not known how the last commit ended",
        {"test_archive_faults": ("test_what_was_uncertain_goes_with_the_next_commit",)},
    ),
    LeftOut(
        "sqlite",
        "a copy of the folder is a copy of the archive, its index is in it",
        {
            "test_archive_delete": ("test_the_file_of_others_deletes_nothing",),
            "test_archive_delete_kill": WHOLE,
        },
    ),
    LeftOut(
        "sqlite",
        "it counts or reads what SQLite is told to do; what PostgreSQL is told: test_archive_postgres",
        {
            "test_archive_outbox": (
                "test_who_asks_at_the_same_time_shares_a_transaction",
                "test_only_what_has_to_be_durable_is_synced",
                "test_settlements_wait_for_others_and_for_nothing_else",
                "test_20_000_deliveries_cost_three_statements_a_batch_and_no_scan",
                "test_a_backlog_costs_others_no_row",
                "test_every_statement_goes_by_an_index",
            ),
            "test_archive_outbox_many": (
                "test_what_is_done_reads_no_more_rows_because_many_wait",
                "test_a_delivery_is_written_by_two_statements_and_read_by_its_number",
                "test_all_is_counted_once_for_what_an_operator_looks_at",
                "test_a_retry_of_very_many_is_made_page_by_page",
                "test_what_is_due_all_at_once_is_made_ready_page_by_page",
            ),
        },
    ),
    LeftOut(
        "sqlite",
        "strace or a disk of its own under the process that has file and index",
        {
            "test_archive_faults": (
                "test_a_full_disk",
                "test_a_disk_that_is_nearly_full",
                "test_a_fault_at_a_system_call",
                "test_many_leftovers_are_swept_while_serving",
            ),
            "test_archive_hostile": ("test_over_the_network_seen_from_outside",),
            "test_archive_kill": (
                "test_killed_at_a_system_call_of_a_store",
                "test_killed_at_a_system_call_of_a_group_commit",
                "test_a_start_syncs_what_a_killed_archive_had_not",
            ),
            "test_archive_model": WHOLE,
        },
    ),
    LeftOut(
        "folder",
        "a file call fails, waits or is noted; what a store does then: test_archive_s3",
        {
            "test_archive_aside": (
                "test_killed_at_every_file_call",
                "test_a_file_system_without_links",
                "test_two_disks_are_told_at_start",
            ),
            "test_archive_control": ("test_who_goes_away_ends_the_request",),
            "test_archive_delete": ("test_a_file_that_cannot_be_removed_goes_at_the_next_start",),
            "test_archive_durability": (
                "test_success_comes_after_data_folder_and_row_are_durable",
                "test_quarantine_is_as_durable",
                "test_weaker_durability_syncs_nothing",
                "test_a_group_commit_syncs_a_folder_once",
                "test_a_full_disk_is_a_failure_and_leaves_nothing",
                "test_a_full_disk_in_the_middle",
                "test_quarantine_that_fails",
                "test_a_cancelled_store_waits_for_its_write_and_leaves_nothing",
                "test_a_store_cancelled_in_the_queue_is_withdrawn",
                "test_a_store_cancelled_while_it_waits_for_data_leaves_nothing",
                "test_no_descriptor_is_left_open",
            ),
            "test_archive_faults": (
                "test_a_file_whose_sync_failed_is_never_synced_again",
                "test_a_folder_whose_sync_failed_costs_those_it_had_and_no_others",
                "test_the_sweep_goes_on_while_others_are_served",
                "test_an_archive_with_unreadable_ancestors_opens",
            ),
            "test_archive_finishing": WHOLE,
            "test_archive_kept": (
                "test_a_conflict_that_fails_costs_the_others_nothing",
                "test_folders_that_nobody_has_synced_are_synced_before_their_files_count",
            ),
            "test_archive_room": ("test_the_disk_fills_while_an_object_arrives",),
        },
    ),
    LeftOut(
        "folder",
        "the store of a test is in its process, and opens files by their keys",
        {"test_archive_hostile": ("test_in_data_sets_and_identifiers",)},
    ),
    LeftOut(
        "folder",
        "mounts, links and files of others are none of a bucket",
        {
            "test_archive_kept": (
                "test_missing_mounts",
                "test_foreign_things_are_left_alone",
                "test_foreign_dicom_files_in_the_folder_are_told_and_left_alone",
            ),
        },
    ),
)


# Without the variable the tests of these modules run with both engines, or with the instances in a folder and
# in a bucket.
ON_BOTH = frozenset(
    {
        *("test_archive_delete", "test_archive_durability", "test_archive_faults", "test_archive_find"),
        *("test_archive_outbox", "test_archive_outbox_many", "test_archive_reassign"),
        "test_archive_stability",
    }
)
IN_BUCKET = frozenset({"test_archive_dimse", "test_archive_store"})
IN_BUCKET_TOO = frozenset({"test_a_crash_before_the_move_is_made_up_for"})
# These take long, and see little of where the instances are.
NOT_IN_EVERY_RUN = frozenset(
    {
        "test_two_hundred_associations_store_at_the_same_time_in_few_threads",
        "test_who_may_leave_out_the_keys_of_upper_levels",
        "test_an_unreadable_data_set_is_refused",
        "test_any_pieces_give_the_same_file",
        "test_every_encoding",
        "test_every_instance_of_pydicom",
        "test_on_conflict_keep",
        "test_one_uid_at_the_same_time",
        "test_what_cannot_be_indexed_is_refused_and_not_kept",
    }
)


def _needs(module: str, test: str) -> set[str]:
    return {
        row.needs
        for row in LEFT_OUT
        if module in row.tests and (not row.tests[module] or test in row.tests[module])
    }


def is_left_out(module: str, test: str) -> bool:
    """Tell whether a test has nothing to say where the archives of this run are."""
    return bool(PLACE) and not _needs(module, test) <= set(PLACE.split("+"))


def in_every_run(module: str, test: str) -> dict[str, list[str]]:
    """Give the engines, and what has the instances, that a test runs with where nobody has chosen."""
    needs, kinds = _needs(module, test), {}
    if not PLACE and "nothing" not in needs and test not in NOT_IN_EVERY_RUN:
        if module in ON_BOTH and "sqlite" not in needs:
            kinds["engine"] = ["sqlite", "postgresql"]
        if (module in IN_BUCKET or test in IN_BUCKET_TOO) and "folder" not in needs:
            kinds["blobs"] = ["folder", "s3"]
    return kinds
