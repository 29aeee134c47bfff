"""Model clients: one interface for every provider, alone or under supervision."""

from dspex.providers.anthropic import Anthropic
from dspex.providers.breaker import Breaker, BreakerState
from dspex.providers.budget import Budget, Budgeted
from dspex.providers.cache import Cached
from dspex.providers.cache_stores import CacheStore, MemoryStore, SQLiteStore
from dspex.providers.embedded import Embedded
from dspex.providers.embedded_server import EmbeddedServer
from dspex.providers.errors import (
    AllModelsFailedError,
    Attempt,
    AuthenticationError,
    BadRequestError,
    BreakerOpenError,
    BudgetExceededError,
    ConfigurationError,
    ConnectionFailedError,
    ContextLengthError,
    InvalidRequestError,
    LimitExceededError,
    MalformedResponseError,
    MissingKeyError,
    MissingPackageError,
    ModelServerError,
    ModelUnavailableError,
    NotFoundError,
    PartialResponseError,
    PermissionDeniedError,
    ProviderError,
    ProviderTimeoutError,
    RateLimitError,
    ServerError,
    StatusError,
    UnsupportedError,
)
from dspex.providers.fallback import Fallback
from dspex.providers.limiter import RateLimiter, SharedLimiter, as_caller
from dspex.providers.limits import Limits
from dspex.providers.lm import LM, Capabilities
from dspex.providers.messages import (
    Choice,
    Message,
    OutputSchema,
    Request,
    Response,
    ToolCall,
    ToolSpec,
    Usage,
)
from dspex.providers.openai import OpenAI
from dspex.providers.parts import FilePart, ImagePart, TextPart
from dspex.providers.prices import Price, read_prices
from dspex.providers.retries import RetryPolicy
from dspex.providers.streams import (
    Delta,
    ResponseStream,
    StreamingLM,
    TextDelta,
    ToolCallDelta,
)
from dspex.providers.transport import Transport

__all__ = [
    "LM",
    "AllModelsFailedError",
    "Anthropic",
    "Attempt",
    "AuthenticationError",
    "BadRequestError",
    "Breaker",
    "BreakerOpenError",
    "BreakerState",
    "Budget",
    "BudgetExceededError",
    "Budgeted",
    "CacheStore",
    "Cached",
    "Capabilities",
    "Choice",
    "ConfigurationError",
    "ConnectionFailedError",
    "ContextLengthError",
    "Delta",
    "Embedded",
    "EmbeddedServer",
    "Fallback",
    "FilePart",
    "ImagePart",
    "InvalidRequestError",
    "LimitExceededError",
    "Limits",
    "MalformedResponseError",
    "MemoryStore",
    "Message",
    "MissingKeyError",
    "MissingPackageError",
    "ModelServerError",
    "ModelUnavailableError",
    "NotFoundError",
    "OpenAI",
    "OutputSchema",
    "PartialResponseError",
    "PermissionDeniedError",
    "Price",
    "ProviderError",
    "ProviderTimeoutError",
    "RateLimitError",
    "RateLimiter",
    "Request",
    "Response",
    "ResponseStream",
    "RetryPolicy",
    "SQLiteStore",
    "ServerError",
    "SharedLimiter",
    "StatusError",
    "StreamingLM",
    "TextDelta",
    "TextPart",
    "ToolCall",
    "ToolCallDelta",
    "ToolSpec",
    "Transport",
    "UnsupportedError",
    "Usage",
    "as_caller",
    "read_prices",
]
