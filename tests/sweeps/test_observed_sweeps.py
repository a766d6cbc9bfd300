"""What was observed of `echoroom` goes when it has been counted for long."""

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import insert, select

from models.analytics import EchoroomSpeaker, EchoroomStay
from tasks.policies.columns import table_of
from tests.platform import Platform
from tests.sweeps.sweeping import INSTANT, NOW, close_rollups, sweep

LIMIT = NOW - timedelta(days=40)


@pytest.mark.parametrize("by_hand", [True, False])
def test_only_what_is_past_its_time_goes(platform: Platform, by_hand: bool) -> None:
    stays = [LIMIT - INSTANT, LIMIT, None]
    hours = [LIMIT - INSTANT, LIMIT]
    with platform.engine.begin() as connection:
        for left in stays:
            whose = {"room_id": uuid4(), "user_id": uuid4(), "joined_at": LIMIT - timedelta(days=9)}
            connection.execute(insert(table_of(EchoroomStay)).values(**whose, left_at=left, seen_at=NOW))
        for hour in hours:
            row = {"room_id": uuid4(), "user_id": uuid4(), "hour": hour}
            connection.execute(insert(table_of(EchoroomSpeaker)).values(row))
    close_rollups(platform)
    for name in ("roomkeeper.echoroom_stays", "roomkeeper.echoroom_speakers"):
        assert sweep(platform, name, by_hand=by_hand).rows == 1
    with platform.engine.begin() as connection:
        assert set(connection.scalars(select(EchoroomStay.left_at))) == {LIMIT, None}
        assert list(connection.scalars(select(EchoroomSpeaker.hour))) == [LIMIT]
