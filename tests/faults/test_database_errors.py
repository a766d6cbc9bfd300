"""What each error of the database is taken for: all that psycopg knows, and what a real server raises."""

import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.sql import SQL, Identifier
from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DisconnectionError,
    NoResultFound,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from stack.ports import free_port
from tests.platform import eventually
from workers.database_errors import ErrorKind, is_transient, is_unavailable, kind_of
from workers.db import create
from workers.settings import load

UNAVAILABLE, CONTENTION = ErrorKind.UNAVAILABLE, ErrorKind.CONTENTION
DATA, BUG = ErrorKind.DATA, ErrorKind.BUG

#: Every class of `psycopg.errors`. A class that psycopg adds is to be put here, once it is decided
#: how to handle it; `workers.database_errors` says what it is taken for until then.
FATES = {
    UNAVAILABLE: """
        AdminShutdown CancellationTimeout CannotConnectNow ConfigFileError ConnectionDoesNotExist
        ConnectionException ConnectionFailure ConnectionTimeout CrashShutdown DatabaseDropped
        DatabaseError DiskFull DuplicateFile DuplicatePreparedStatement Error FdwOutOfMemory
        FdwUnableToEstablishConnection FileNameTooLong IdleInTransactionSessionTimeout
        IdleSessionTimeout InsufficientResources InvalidAuthorizationSpecification
        InvalidCatalogName InvalidPassword InvalidSqlStatementName IoError LockFileExists
        OperationalError OperatorIntervention OutOfMemory ProtocolViolation ReadOnlySqlTransaction
        SqlclientUnableToEstablishSqlconnection SqlserverRejectedEstablishmentOfSqlconnection
        StatementCompletionUnknown SystemError TooManyConnections TransactionResolutionUnknown
        UndefinedFile _WaitTimeout
""",
    CONTENTION: """
        ConfigurationLimitExceeded DeadlockDetected LockNotAvailable ObjectInUse QueryCanceled
        SerializationFailure SnapshotTooOld TransactionRollback TransactionTimeout
""",
    DATA: """
        ArraySubscriptError AssertFailure BadCopyFileFormat CardinalityViolation CaseNotFound
        CharacterNotInRepertoire CheckViolation ContainingSqlNotPermitted DataError DataException
        DatetimeFieldOverflow DependentObjectsStillExist DependentPrivilegeDescriptorsStillExist
        DivisionByZero DuplicateJsonObjectKeyValue ErrorInAssignment EscapeCharacterConflict
        EventTriggerProtocolViolated ExclusionViolation ExternalRoutineException
        ExternalRoutineInvocationException FloatingPointException ForeignKeyViolation
        FunctionExecutedNoReturnStatement IndicatorOverflow IntegrityConstraintViolation
        IntegrityError IntervalFieldOverflow InvalidArgumentForLogarithm
        InvalidArgumentForNthValueFunction InvalidArgumentForNtileFunction
        InvalidArgumentForPowerFunction InvalidArgumentForSqlJsonDatetimeFunction
        InvalidArgumentForWidthBucketFunction InvalidArgumentForXquery InvalidBinaryRepresentation
        InvalidCharacterValueForCast InvalidDatetimeFormat InvalidEscapeCharacter InvalidEscapeOctet
        InvalidEscapeSequence InvalidIndicatorParameterValue InvalidJsonText InvalidParameterValue
        InvalidPrecedingOrFollowingSize InvalidRegularExpression InvalidRowCountInLimitClause
        InvalidRowCountInResultOffsetClause InvalidSqlJsonSubscript InvalidSqlstateReturned
        InvalidTablesampleArgument InvalidTablesampleRepeat InvalidTextRepresentation
        InvalidTimeZoneDisplacementValue InvalidUseOfEscapeCharacter InvalidXmlComment
        InvalidXmlContent InvalidXmlDocument InvalidXmlProcessingInstruction
        ModifyingSqlDataNotPermitted ModifyingSqlDataNotPermittedExt MoreThanOneSqlJsonItem
        MostSpecificTypeMismatch NoDataFound NoSqlJsonItem NonNumericSqlJsonItem
        NonUniqueKeysInAJsonObject NonstandardUseOfEscapeCharacter NotAnXmlDocument NotNullViolation
        NullValueNoIndicatorParameter NullValueNotAllowed NullValueNotAllowedExt
        NumericValueOutOfRange PlpgsqlError ProgramLimitExceeded ProhibitedSqlStatementAttempted
        ProhibitedSqlStatementAttemptedExt RaiseException ReadingSqlDataNotPermitted
        ReadingSqlDataNotPermittedExt RestrictViolation SingletonSqlJsonItemRequired
        SqlJsonArrayNotFound SqlJsonItemCannotBeCastToTargetType SqlJsonMemberNotFound
        SqlJsonNumberNotFound SqlJsonObjectNotFound SqlJsonScalarRequired SqlRoutineException
        SrfProtocolViolated StatementTooComplex StringDataLengthMismatch StringDataRightTruncation
        SubstringError TooManyJsonArrayElements TooManyJsonObjectMembers TooManyRows
        TransactionIntegrityConstraintViolation TriggerProtocolViolated TriggeredActionException
        TriggeredDataChangeViolation TrimError UniqueViolation UnterminatedCString
        UntranslatableCharacter WithCheckOptionViolation ZeroLengthCharacterString
""",
    BUG: """
        ActiveSqlTransaction AmbiguousAlias AmbiguousColumn AmbiguousFunction AmbiguousParameter
        BranchTransactionAlreadyActive CannotCoerce CantChangeRuntimeParam CollationMismatch
        DataCorrupted DatatypeMismatch DiagnosticsException DuplicateAlias DuplicateColumn
        DuplicateCursor DuplicateDatabase DuplicateFunction DuplicateObject DuplicateSchema
        DuplicateTable FdwColumnNameNotFound FdwDynamicParameterValueNeeded FdwError
        FdwFunctionSequenceError FdwInconsistentDescriptorInformation FdwInvalidAttributeValue
        FdwInvalidColumnName FdwInvalidColumnNumber FdwInvalidDataType FdwInvalidDataTypeDescriptors
        FdwInvalidDescriptorFieldIdentifier FdwInvalidHandle FdwInvalidOptionIndex
        FdwInvalidOptionName FdwInvalidStringFormat FdwInvalidStringLengthOrBufferLength
        FdwInvalidUseOfNullPointer FdwNoSchemas FdwOptionNameNotFound FdwReplyHandle
        FdwSchemaNotFound FdwTableNotFound FdwTooManyHandles FdwUnableToCreateExecution
        FdwUnableToCreateReply FeatureNotSupported GeneratedAlways GroupingError
        HeldCursorRequiresSameIsolationLevel InFailedSqlTransaction
        InappropriateAccessModeForBranchTransaction InappropriateIsolationLevelForBranchTransaction
        IndeterminateCollation IndeterminateDatatype IndexCorrupted InsufficientPrivilege
        InterfaceError InternalError InternalError_ InvalidColumnDefinition InvalidColumnReference
        InvalidCursorDefinition InvalidCursorName InvalidCursorState InvalidDatabaseDefinition
        InvalidForeignKey InvalidFunctionDefinition InvalidGrantOperation InvalidGrantor
        InvalidLocatorSpecification InvalidName InvalidObjectDefinition
        InvalidPreparedStatementDefinition InvalidRecursion InvalidRoleSpecification
        InvalidSavepointSpecification InvalidSchemaDefinition InvalidSchemaName
        InvalidTableDefinition InvalidTransactionInitiation InvalidTransactionState
        InvalidTransactionTermination LocatorException NameTooLong NoActiveSqlTransaction
        NoActiveSqlTransactionForBranchTransaction NoAdditionalDynamicResultSetsReturned NoData
        NotSupportedError ObjectNotInPrerequisiteState PipelineAborted ProgrammingError ReservedName
        SavepointException SchemaAndDataStatementMixingNotSupported SequenceGeneratorLimitExceeded
        SqlStatementNotYetComplete StackedDiagnosticsAccessedWithoutActiveHandler SyntaxError
        SyntaxErrorOrAccessRuleViolation TooManyArguments TooManyColumns UndefinedColumn
        UndefinedFunction UndefinedObject UndefinedParameter UndefinedTable UnsafeNewEnumValueUsage
        WindowingError WrongObjectType
""",
}


def test_every_class_of_psycopg_has_its_fate() -> None:
    stated = {name: kind for kind, names in FATES.items() for name in names.split()}
    taken = {
        name: kind_of(error("told by the server"))
        for name, error in vars(errors).items()
        if inspect.isclass(error) and issubclass(error, psycopg.Error)
    }
    assert taken.keys() == stated.keys(), "psycopg has other errors than FATES: see what is said there"
    assert taken == stated


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PoolTimeoutError("QueuePool limit reached"), BUG),
        (DisconnectionError(), UNAVAILABLE),
        (PendingRollbackError(), UNAVAILABLE),
        (NoResultFound(), BUG),
        (ArgumentError(), BUG),
        (SQLAlchemyError(), BUG),
        # Whatever the statement met: its connection is gone.
        (OperationalError("SELECT 1", {}, errors.SyntaxError("x"), connection_invalidated=True), UNAVAILABLE),
        (OperationalError("SELECT 1", {}, ValueError("not of psycopg")), BUG),
        (ValueError("of no database"), None),
        (KeyboardInterrupt(), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_errors_that_no_server_raised(error: BaseException, kind: ErrorKind | None) -> None:
    assert kind_of(error) is kind
    assert is_unavailable(error) is (kind is UNAVAILABLE)
    assert is_transient(error) is (kind in {UNAVAILABLE, CONTENTION})


# -- A real server ----------------------------------------------------------------------------------------


@pytest.fixture
def engine(empty_database: str) -> Iterator[Engine]:
    made = create(
        load(
            {
                "DATABASE_URL": empty_database,
                "ROOMKEEPER_LOCK_TIMEOUT_MS": "100",
                "ROOMKEEPER_PREPARED_STATEMENTS": "true",
            }
        )
    )
    with made.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id int PRIMARY KEY, name text)")
        connection.exec_driver_sql("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    yield made
    made.dispose()


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def read_only(engine: Engine) -> None:
    run(engine, "SET TRANSACTION READ ONLY", "DELETE FROM t")


def locked(engine: Engine) -> None:
    with engine.begin() as other:
        other.exec_driver_sql("SELECT 1 FROM t FOR UPDATE")
        run(engine, "DELETE FROM t")


def deadlock(engine: Engine) -> None:
    patience = "SET LOCAL lock_timeout = '20s'"
    met: list[BaseException] = []
    with engine.connect() as one, engine.connect() as two:
        for connection, row in ((one, 1), (two, 2)):
            connection.exec_driver_sql(patience)
            connection.exec_driver_sql(f"UPDATE t SET name = 'c' WHERE id = {row}")

        def cross(connection: Connection, row: int) -> None:
            try:
                connection.exec_driver_sql(f"UPDATE t SET name = 'c' WHERE id = {row}")
            except SQLAlchemyError as error:
                met.append(error)

        thread = threading.Thread(target=cross, args=(one, 2))
        thread.start()
        cross(two, 1)
        if met:
            two.rollback()
        thread.join()
    raise met[0]


def serialization(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.exec_driver_sql("SELECT * FROM t")
        run(engine, "UPDATE t SET name = 'z'")
        connection.exec_driver_sql("UPDATE t SET name = 'y'")


def too_slow(engine: Engine) -> None:
    run(engine, "SET LOCAL statement_timeout = '20ms'", "SELECT pg_sleep(30)")


def transaction_too_long(engine: Engine) -> None:
    run(engine, "SET LOCAL transaction_timeout = '20ms'", "SELECT pg_sleep(30)")


def idle_too_long(engine: Engine) -> None:
    with engine.begin() as connection, engine.begin() as other:
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '20ms'")
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        there = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")

        def ended() -> bool:
            other.exec_driver_sql("SELECT pg_stat_clear_snapshot()")
            return not other.scalar(there, {"pid": pid})

        eventually(ended)
        connection.exec_driver_sql("SELECT 1")


def _signalled(engine: Engine, function: str) -> None:
    with engine.begin() as connection, engine.begin() as other:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        busy = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid AND wait_event = 'PgSleep'")

        def signal() -> None:
            def sleeping() -> bool:
                other.exec_driver_sql("SELECT pg_stat_clear_snapshot()")
                return bool(other.scalar(busy, {"pid": pid}))

            eventually(sleeping)
            other.execute(text(f"SELECT {function}(:pid)"), {"pid": pid})

        thread = threading.Thread(target=signal)
        thread.start()
        try:
            connection.exec_driver_sql("SELECT pg_sleep(30)")
        finally:
            thread.join()


def cancelled(engine: Engine) -> None:
    _signalled(engine, "pg_cancel_backend")


def terminated(engine: Engine) -> None:
    _signalled(engine, "pg_terminate_backend")


def goes_on_after_its_connection_is_lost(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.invalidate()
        connection.exec_driver_sql("SELECT 1")


def stale_plan(engine: Engine) -> None:
    with engine.connect() as connection:
        for _ in range(8):
            connection.exec_driver_sql("SELECT * FROM t").all()
        connection.commit()
        run(engine, "ALTER TABLE t ALTER name TYPE varchar(9)")
        connection.exec_driver_sql("SELECT * FROM t").all()


def prepared_twice(engine: Engine) -> None:
    run(engine, "PREPARE p AS SELECT 1", "PREPARE p AS SELECT 1")


def _connect(engine: Engine, **changes: Any) -> None:
    url = make_url(engine.url).set(drivername="postgresql", **changes)
    made = create(load({"DATABASE_URL": url.render_as_string(hide_password=False)}))
    run(made, "SELECT 1")


def no_server(engine: Engine) -> None:
    _connect(engine, port=free_port())


def no_database(engine: Engine) -> None:
    _connect(engine, database="nowhere")


def no_role(engine: Engine) -> None:
    _connect(engine, username="stranger")


def too_many_connections(engine: Engine) -> None:
    # Of a role, which a superuser is not bound by.
    role = f"crowd_{engine.url.database}"
    run(engine, f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")
    try:
        _connect(engine, username=role)
    finally:
        run(engine, f"DROP ROLE {role}")


def exhausted_pool(engine: Engine) -> None:
    engine.pool._timeout = 0.01  # type: ignore[attr-defined]
    with engine.connect(), engine.connect(), engine.connect():
        pass


def no_right(engine: Engine) -> None:
    run(engine, "SET LOCAL ROLE pg_monitor", "DELETE FROM t")


def raised_by_a_trigger(engine: Engine, state: str = "P0001") -> None:
    run(engine, f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$")


def custom_state(engine: Engine) -> None:
    raised_by_a_trigger(engine, "PT409")


def after_an_error(engine: Engine) -> None:
    with engine.begin() as connection:
        with pytest.raises(SQLAlchemyError):
            connection.exec_driver_sql("SELECT 1 / 0")
        connection.exec_driver_sql("SELECT 1")


def nul_in_a_text(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO t VALUES (3, :name)"), {"name": "a\0b"})


def statement(sql: str) -> Callable[[Engine], None]:
    def act(engine: Engine) -> None:
        run(engine, sql)

    act.__name__ = sql
    return act


REAL: dict[Callable[[Engine], None], ErrorKind] = {
    read_only: UNAVAILABLE,
    terminated: UNAVAILABLE,
    idle_too_long: UNAVAILABLE,
    goes_on_after_its_connection_is_lost: UNAVAILABLE,
    stale_plan: UNAVAILABLE,
    prepared_twice: UNAVAILABLE,
    no_server: UNAVAILABLE,
    no_database: UNAVAILABLE,
    no_role: UNAVAILABLE,
    too_many_connections: UNAVAILABLE,
    exhausted_pool: BUG,
    locked: CONTENTION,
    deadlock: CONTENTION,
    serialization: CONTENTION,
    too_slow: CONTENTION,
    cancelled: CONTENTION,
    raised_by_a_trigger: DATA,
    custom_state: DATA,
    nul_in_a_text: DATA,
    statement("INSERT INTO t VALUES (1, 'again')"): DATA,
    statement("INSERT INTO t SELECT 3, 1 / 0"): DATA,
    statement("INSERT INTO t VALUES (99999999999, '')"): DATA,
    statement("INSERT INTO t SELECT i, i FROM (SELECT 5 AS i UNION ALL SELECT 5) AS twice"): DATA,
    after_an_error: BUG,
    no_right: BUG,
    statement("SELECT * FROM nowhere"): BUG,
    statement("SELECT nothing FROM t"): BUG,
    statement("SELEKT"): BUG,
}


@pytest.mark.parametrize(("act", "kind"), REAL.items(), ids=[act.__name__ for act in REAL])
def test_errors_of_a_real_server(engine: Engine, act: Callable[[Engine], None], kind: ErrorKind) -> None:
    with pytest.raises(SQLAlchemyError) as met:
        act(engine)
    assert kind_of(met.value) is kind, repr(met.value)


def test_a_transaction_that_took_too_long_ends_its_connection(engine: Engine) -> None:
    """Both is true of it: it was too much for one, and its connection is gone."""
    with pytest.raises(SQLAlchemyError) as met:
        transaction_too_long(engine)
    assert is_transient(met.value)


def test_a_stale_plan_is_forgotten_with_the_rollback(engine: Engine) -> None:
    with engine.connect() as connection:
        for _ in range(8):
            connection.exec_driver_sql("SELECT * FROM t").all()
        connection.commit()
        run(engine, "ALTER TABLE t ALTER name TYPE varchar(9)")
        with pytest.raises(SQLAlchemyError):
            connection.exec_driver_sql("SELECT * FROM t").all()
        connection.rollback()
        assert len(connection.exec_driver_sql("SELECT * FROM t").all()) == 2


def test_a_database_that_is_dropped_under_its_connections(engine: Engine) -> None:
    url = make_url(engine.url)
    with psycopg.connect(
        url.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False),
        autocommit=True,
    ) as operator:
        name = Identifier(str(url.database))
        operator.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(name))
        with pytest.raises(SQLAlchemyError) as met:
            run(engine, "SELECT 1")
        assert is_unavailable(met.value)
        operator.execute(SQL("CREATE DATABASE {}").format(name))
    run(engine, "SELECT 1")
