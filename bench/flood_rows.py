"""What `bench/flood.py` writes: names, kinds of studies, and the statements that make rows of them.

A study has a number from 0; everything about it follows from dice that are hashes of that number.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from storage.names import words

_FAMILIES = {
    "Nguyễn": 38, "Trần": 11, "Lê": 9, "Phạm": 7, "Hoàng": 3, "Huỳnh": 3, "Phan": 4, "Vũ": 3, "Võ": 2, "Đặng": 2,
    "Bùi": 2, "Đỗ": 2, "Hồ": 1, "Ngô": 1, "Dương": 1, "Lý": 1, "Đinh": 1, "Trương": 1, "Lâm": 1, "Mai": 1, "Tạ": 1,
}  # fmt: skip
_MIDDLE = {
    "M": ("Văn", "Hữu", "Đức", "Minh", "Quốc", "Xuân", "Công", "Gia", "Thanh", "Đình"),
    "F": ("Thị", "Thị", "Thị", "Ngọc", "Thanh", "Hồng", "Kim", "Thu", "Diệu", "Phương"),
}
_GIVEN = (
    "An", "Anh", "Ánh", "Bảo", "Bích", "Bình", "Châu", "Chi", "Cường", "Dũng", "Duy", "Đạt", "Đông", "Giang", "Hà",
    "Hải", "Hạnh", "Hiền", "Hiếu", "Hoa", "Hòa", "Hùng", "Huy", "Hương", "Khánh", "Khoa", "Lan", "Lâm", "Linh",
    "Loan", "Long", "Ly", "Mai", "Mạnh", "My", "Nam", "Nga", "Ngân", "Nghĩa", "Nguyệt", "Nhân", "Nhung", "Oanh",
    "Phong", "Phúc", "Phượng", "Quân", "Quang", "Quỳnh", "Sơn", "Tâm", "Thảo", "Thắng", "Thịnh", "Thủy", "Tiến",
    "Toàn", "Trang", "Trinh", "Trung", "Tú", "Tuấn", "Tùng", "Uyên", "Vân", "Việt", "Vinh", "Vy", "Xuân", "Yến",
)  # fmt: skip


def names(count: int, dice: random.Random) -> Iterator[tuple[int, str, str, str]]:
    """(number from 0, name as DICOM writes it, its key in the index, sex), as common as in Vietnam."""
    families = dice.choices(list(_FAMILIES), list(_FAMILIES.values()), k=count)
    for number, family in enumerate(families):
        sex = dice.choice("MF")
        middle = dice.choice(_MIDDLE[sex])
        given = " ".join(dice.sample(_GIVEN, dice.choice((1, 1, 2))))
        name = f"{family}^{middle} {given}"
        yield number, name, " ".join(words(name)), sex


@dataclass(frozen=True)
class _Kind:
    """A kind of study: how many of 100 it is, and its series as (description, images, views)."""

    share: int
    modality: str
    description: str
    series: tuple[tuple[str, int, str], ...]
    body_part: str
    sop_class: str
    rows: int
    columns: int
    megabytes: float  # of an instance


_CLASSES = "1.2.840.10008.5.1.4.1.1."
_PA, _LL = ("PA", 1, "PA"), ("LL", 1, "LL")
_VIEWS = ("4 hướng", 4, "CC\\CC\\MLO\\MLO")
_CT = (("Scout", 1, ""), ("Cắt ngang 5 mm", 16, ""))
_KINDS = (
    _Kind(55, "DX", "X-quang ngực thẳng", (_PA,), "CHEST", _CLASSES + "1.1", 3000, 2500, 15),
    _Kind(25, "DX", "X-quang ngực thẳng nghiêng", (_PA, _LL), "CHEST", _CLASSES + "1.1", 3000, 2500, 15),
    _Kind(5, "CR", "X-quang chi", (("Chi", 2, "AP\\LL"),), "EXTREMITY", _CLASSES + "1", 2000, 1500, 6),
    _Kind(10, "US", "Siêu âm ổ bụng", (("Ổ bụng", 4, ""),), "ABDOMEN", _CLASSES + "6.1", 768, 1024, 0.8),
    _Kind(3, "MG", "Nhũ ảnh", (_VIEWS,), "BREAST", _CLASSES + "1.2", 4096, 3328, 27),
    _Kind(2, "CT", "CT ngực không tiêm", _CT, "CHEST", _CLASSES + "2", 512, 512, 0.5),
)


def profiles() -> Iterator[tuple[object, ...]]:
    """Rows of flood_profiles: for each throw of 0 to 99 the series of a study, with what their instances have."""
    dice = 0
    for kind in _KINDS:
        for throw in range(dice, dice + kind.share):
            for number, (description, images, views) in enumerate(kind.series, 1):
                yield (
                    throw, kind.modality, kind.description, number, images, description, kind.body_part,
                    (views or "\\").split("\\"), kind.sop_class, "1.2.840.10008.1.2.1", kind.rows, kind.columns, 16,
                    "MONOCHROME2", "ORIGINAL\\PRIMARY", int(1e6 * kind.megabytes), [kind.modality],
                )  # fmt: skip
        dice += kind.share


def _dice(number: str, seed: int, sides: str) -> str:
    """SQL: 0 to sides - 1, from a number and a seed (the percent sign doubled for psycopg)."""
    return f"((hashint8extended({number}, {seed}) & 1099511627775) %% ({sides}))"


def _uid(root: str, number: str, seed: int) -> str:
    """SQL: a UID under ours, in no order, as those of many devices are."""
    return f"'2.25.{root}' || (hashint8extended({number}, {seed}) & 9007199254740991) || '.' || {number}"


_AT = "(study_date + study_time::time) AT TIME ZONE 'UTC'"
# Of five studies two bring new patients; the others are of patients that were here before.
_PATIENT = f"CASE WHEN n %% 5 < 2 THEN n / 5 * 2 + n %% 5 + 1 ELSE 1 + {_dice('n', 1, 'n / 5 * 2 + 2')} END"
_NUMBERS = "generate_series(%(start)s::bigint, %(end)s::bigint)"
_NAMES = "(SELECT count(*) FROM flood_names)"

# By table, in the order of filling; each statement makes the rows of the studies from start to end.
FILL = {
    "patients": f"""
INSERT INTO patients (patient_pk, patient_key, patient_id, issuer, name, birth_date, sex, created_at)
OVERRIDING SYSTEM VALUE
SELECT p, '\\BN' || lpad(p::text, 8, '0'), 'BN' || lpad(p::text, 8, '0'), '', f.name,
    date '1935-01-01' + {_dice("p", 2, "28000")}::int, f.sex, %(first_day)s::date
FROM {_NUMBERS} AS n CROSS JOIN LATERAL (SELECT n / 5 * 2 + n %% 5 + 1 AS p) AS x
JOIN flood_names AS f ON f.number = {_dice("p", 3, _NAMES)}
WHERE n %% 5 < 2""",
    "studies": f"""
INSERT INTO studies (study_pk, study_uid, patient_fk, patient_id, patient_name, patient_name_key, patient_birth_date,
    patient_sex, patient_age, study_date, study_time, accession_number, study_id, description, referring_physician,
    institution_name, timezone_offset, site, requested_priority, modalities, created_at)
OVERRIDING SYSTEM VALUE
SELECT n + 1, {_uid("1", "n", 4)}, p, patient_id, p_.name, f.key, birth_date, p_.sex, '', study_date, study_time,
    'A' || to_char(study_date, 'YYMM') || lpad(n::text, 9, '0'), lpad(n::text, 9, '0'), k.study_description,
    doctor.name, 'Bệnh viện Đa khoa Tỉnh', '', '', 'routine', k.modalities, {_AT}
FROM {_NUMBERS} AS n CROSS JOIN LATERAL (SELECT {_PATIENT} AS p,
    %(first_day)s::date + (n * %(days)s / %(studies)s)::int AS study_date,
    to_char(make_interval(secs => 25200 + (n * %(days)s %% %(studies)s * 39600 / %(studies)s)), 'HH24MISS')
        AS study_time) AS x
JOIN patients AS p_ ON p_.patient_pk = p
JOIN flood_names AS f ON f.number = {_dice("p", 3, _NAMES)}
JOIN flood_names AS doctor ON doctor.number = {_dice("n", 5, "100")}
JOIN flood_profiles AS k ON k.dice = {_dice("n", 6, "100")} AND k.series_number = 1
ORDER BY n""",
    "name_words": """
INSERT INTO name_words (word, study_fk, words, study_date)
SELECT word, study_pk, patient_name_key, study_date
FROM studies, unnest(string_to_array(patient_name_key, ' ')) AS word
WHERE study_pk BETWEEN %(start)s + 1 AND %(end)s + 1""",
    "series": f"""
INSERT INTO series (series_pk, series_uid, study_fk, modality, series_number, description, body_part, laterality,
    protocol_name, series_date, series_time, pps_start_date, pps_start_time, performing_physician, station_name,
    manufacturer, manufacturer_model, institution_name, created_at)
OVERRIDING SYSTEM VALUE
SELECT 2 * study_pk + k.series_number - 2, {_uid("2", "(2 * study_pk + k.series_number)", 7)}, study_pk, k.modality,
    k.series_number, k.series_description, k.body_part, '', '', study_date, study_time, study_date, study_time, '',
    k.modality || '-PHONG-' || study_pk %% 7, 'Synthetic', 'SYN-1', institution_name, created_at
FROM studies
JOIN flood_profiles AS k ON k.dice = {_dice("study_pk - 1", 6, "100")}
WHERE study_pk BETWEEN %(start)s + 1 AND %(end)s + 1""",
    "instances": f"""
INSERT INTO instances (sop_uid, series_fk, study_fk, sop_class, transfer_syntax, instance_number, rows, columns,
    bits_allocated, frames, photometric, view_position, image_type, content_date, content_time, acquisition_date,
    acquisition_time, object_key, object_size, dataset_offset, sha256, source_aet, source_address, received_at,
    urgency, triage, triage_reason)
SELECT uid, series_pk, study_fk, k.sop_class, k.transfer_syntax, i, k.rows, k.columns, k.bits, NULL, k.photometric,
    coalesce(k.views[i], ''), k.image_type, series_date, series_time, series_date, series_time,
    substr(digest, 1, 2) || '/' || substr(digest, 3, 2) || '/' || digest || '.dcm', k.object_size, 348,
    sha256(uid::bytea), station_name, '10.0.0.7', created_at, 0,
    CASE WHEN k.views[i] = 'PA' THEN 'scored' ELSE 'not_eligible' END,
    CASE WHEN k.views[i] = 'PA' THEN '' ELSE 'not a frontal chest radiograph' END
FROM series
JOIN flood_profiles AS k
    ON k.dice = {_dice("study_fk - 1", 6, "100")} AND k.series_number = series.series_number
CROSS JOIN LATERAL generate_series(1, k.images) AS i
CROSS JOIN LATERAL (SELECT {_uid("3", "(32 * series_pk + i)", 8)} AS uid) AS u
CROSS JOIN LATERAL (SELECT md5(uid) AS digest) AS d
WHERE study_fk BETWEEN %(start)s + 1 AND %(end)s + 1""",
    "worklist": """
INSERT INTO worklist (study_fk, study_uid, state, arrived_at, latest_due_at, due_at, status, reason, flagged,
    probability, model, site, study_date, priority, modalities, scored_at, read_at, read_by, changed_at)
SELECT study_pk, study_uid, CASE WHEN is_open THEN 'open' ELSE 'read' END, created_at, created_at + interval '8 hours',
    created_at + interval '8 hours', CASE WHEN chest THEN 'scored' ELSE 'not_eligible' END,
    CASE WHEN chest THEN '' ELSE 'not a frontal chest radiograph' END, chest AND chance > 0.9,
    CASE WHEN chest THEN chance END, CASE WHEN chest THEN 'bench 1' ELSE '' END, site, study_date, requested_priority,
    modalities, CASE WHEN chest THEN created_at + interval '1 second' END,
    CASE WHEN NOT is_open THEN created_at + interval '3 hours' END, CASE WHEN is_open THEN '' ELSE 'reader' END,
    created_at + interval '3 hours'
FROM studies, LATERAL (SELECT study_pk > %(open_from)s AS is_open, modalities = '{DX}' AS chest,
    (hashint8extended(study_pk, 9) & 65535) / 65536.0 AS chance) AS x
WHERE study_pk BETWEEN %(start)s + 1 AND %(end)s + 1""",
    "audit": """
INSERT INTO audit (at, actor, action, study_uid, detail)
SELECT created_at, modalities[1] || '-1', 'study.arrived', study_uid, jsonb_build_object('source_address', '10.0.0.7',
    'due_at', created_at + interval '8 hours', 'priority', requested_priority, 'site', site)
FROM studies
WHERE study_pk BETWEEN %(start)s + 1 AND %(end)s + 1""",
}
TABLES = tuple(FILL)
