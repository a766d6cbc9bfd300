"""Digests of an object while it passes, and whether an S3 server's ETag is one of them."""

import hashlib
import re
from typing import Any


class Digests:
    """The digests of an object, taken while it passes. `part_bytes`: of its parts, if they are known."""

    def __init__(self, part_bytes: int) -> None:
        self.size = 0
        self._part_bytes = part_bytes
        self._sha256 = hashlib.sha256()
        self._whole = hashlib.md5(usedforsecurity=False)
        self._part = hashlib.md5(usedforsecurity=False)
        self._parts: list[bytes] = []

    def update(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._sha256.update(chunk)
        self._whole.update(chunk)
        while self._part_bytes and chunk:
            room = self._part_bytes - self.size % self._part_bytes
            head, chunk = chunk[:room], chunk[room:]
            self._part.update(head)
            self.size += len(head)
            if self.size % self._part_bytes == 0:
                self._parts.append(self._part.digest())
                self._part = hashlib.md5(usedforsecurity=False)
        self.size += len(chunk)

    @property
    def sha256(self) -> str:
        """The SHA-256 of all so far, in hexadecimal."""
        return self._sha256.hexdigest()

    def agrees(self, answer: Any) -> bool:
        """Say whether the ETag of an answer is that of these bytes, or does not tell."""
        if answer.get("ServerSideEncryption", "AES256") != "AES256" or answer.get("SSECustomerAlgorithm"):
            return True
        etag = answer["ETag"].strip('"')
        if re.fullmatch(r"[0-9a-f]{32}", etag):
            return bool(etag == self._whole.hexdigest())
        if self._part_bytes and re.fullmatch(r"[0-9a-f]{32}-\d+", etag):
            rest = [self._part.digest()] if self.size % self._part_bytes else []
            parts = self._parts + rest
            whole = hashlib.md5(b"".join(parts), usedforsecurity=False)
            return bool(etag == f"{whole.hexdigest()}-{len(parts)}")
        return True
