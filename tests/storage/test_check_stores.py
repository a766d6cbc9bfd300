"""What `roomkeeper check` says of the stores that are set up."""

from pathlib import Path

from commands import checks
from tests.servers import SeaweedFSServer
from tests.storage.stores import s3_settings, s3_subject


def found(
    server: SeaweedFSServer, bucket: str, folder: Path, endpoint: str | None = None, **more: object
) -> list[tuple[str, str]]:
    roots = {"storage_root": folder / "storage", "quarantine_root": folder / "quarantine"}
    roots["storage_root"].mkdir(exist_ok=True)
    settings = s3_settings(server, bucket, endpoint, **roots, **more)
    return [(fault.sentence, fault.advice) for fault in checks.store(settings)]


def test_stores_that_work_pass_and_keep_nothing(
    seaweedfs: SeaweedFSServer, bucket: str, tmp_path: Path
) -> None:
    assert found(seaweedfs, bucket, tmp_path) == []
    subject = s3_subject(seaweedfs, bucket)
    assert (subject.objects(), subject.quarantined()) == ({}, {})


def test_a_missing_bucket_is_a_sentence_with_advice(
    seaweedfs: SeaweedFSServer, bucket: str, tmp_path: Path
) -> None:
    advice = "Make it, or name another in ROOMKEEPER_S3_BUCKET or ROOMKEEPER_S3_QUARANTINE_BUCKET."
    assert found(seaweedfs, "nowhere", tmp_path) == [
        ("The S3 store does not work: the bucket nowhere does not exist.", advice)
    ]
    assert found(seaweedfs, bucket, tmp_path, s3_quarantine_bucket="no-quarantine") == [
        ("The S3 store does not work: the bucket no-quarantine does not exist.", advice)
    ]


def test_a_store_that_refuses_or_is_away_is_a_sentence_with_advice(
    seaweedfs: SeaweedFSServer, bucket: str, tmp_path: Path
) -> None:
    advice = (
        "Give the access key the rights to list, read, write and delete in the bucket and in the quarantine, "
        "or set ROOMKEEPER_S3_ENDPOINT, ROOMKEEPER_S3_ACCESS_KEY, ROOMKEEPER_S3_BUCKET or "
        "ROOMKEEPER_S3_QUARANTINE_BUCKET."
    )
    assert found(seaweedfs, bucket, tmp_path, s3_secret_key="wrong") == [
        ("The S3 store does not work: the object store refuses: SignatureDoesNotMatch.", advice)
    ]
    seaweedfs.kill()
    assert found(seaweedfs, bucket, tmp_path) == [
        ("The S3 store does not work: the object store does not answer.", advice)
    ]


def test_a_quarantine_in_a_bucket_that_is_served(
    seaweedfs: SeaweedFSServer, bucket: str, tmp_path: Path
) -> None:
    served = {"s3_public_url": "https://cdn.example.org"}
    fault = (
        f"The quarantine lies in the bucket {bucket}, whose objects are served.",
        "Name a bucket of its own in ROOMKEEPER_S3_QUARANTINE_BUCKET.",
    )
    assert found(seaweedfs, bucket, tmp_path, **served) == [fault]
    assert found(seaweedfs, bucket, tmp_path, s3_quarantine_bucket=bucket, **served) == [fault]
    other = f"{bucket}-quarantine"
    seaweedfs.client.create_bucket(Bucket=other)
    assert found(seaweedfs, bucket, tmp_path, s3_quarantine_bucket=other, **served) == []
    seaweedfs.client.delete_bucket(Bucket=other)
