"""The model contract, run for every vendor adapter through the vendor's real SDK over loopback."""

from perdure.core.secrets import Secret
from perdure.models.anthropic import Anthropic
from perdure.models.openai import OpenAI
from perdure.testing.model_contract import KEY
from perdure.testing.model_failures import ModelFailures
from perdure.testing.traffic import Chat, Messages, Responses


class TestOpenAIResponses(ModelFailures):
    traffic = Responses()

    def connect(self, base_url: str, key: Secret | None = KEY, silence_s: float = 30.0) -> OpenAI:
        return OpenAI(base_url=f"{base_url}/v1", api_key=key, silence_s=silence_s)


class TestOpenAIChat(ModelFailures):
    traffic = Chat()

    def connect(self, base_url: str, key: Secret | None = KEY, silence_s: float = 30.0) -> OpenAI:
        return OpenAI(api="chat", base_url=f"{base_url}/v1", api_key=key, silence_s=silence_s)


class TestAnthropic(ModelFailures):
    traffic = Messages()

    def connect(
        self, base_url: str, key: Secret | None = KEY, silence_s: float = 30.0
    ) -> Anthropic:
        return Anthropic(base_url=base_url, api_key=key, silence_s=silence_s)
