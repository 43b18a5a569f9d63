#include "coordinator/gateway/generation.h"

#include <utility>

#include "core/base/error.h"
#include "core/base/ids.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/text/generation_bounds.h"
#include "fmt/format.h"

namespace octavo {

absl::StatusOr<std::string> RenderChat(const v1::Chat& chat, const TextBundle& text) {
  if (chat.messages().empty()) {
    return MakeError(Reason::kBadRequest, "the chat has no messages");
  }
  if (!text.chat_template.has_value()) return text.chat_template_error;
  std::vector<ChatTurn> turns;
  for (const v1::ChatMessage& message : chat.messages()) {
    turns.push_back({.role = message.role(), .content = message.content()});
  }
  return text.chat_template->Render(turns, !chat.omit_generation_prompt());
}

absl::StatusOr<std::vector<int32_t>> PromptIds(const v1::GenerateRequest& request,
                                               const TextBundle& text) {
  switch (request.input_case()) {
    case v1::GenerateRequest::kPrompt:
      return text.tokenizer->Encode(request.prompt(), {});
    case v1::GenerateRequest::kTokenIds:
      return std::vector<int32_t>(request.token_ids().ids().begin(),
                                  request.token_ids().ids().end());
    case v1::GenerateRequest::kChat: {
      OCTAVO_ASSIGN_OR_RETURN(const std::string prompt, RenderChat(request.chat(), text));
      return text.tokenizer->Encode(prompt, {.add_special_tokens = false});
    }
    default:
      return MakeError(Reason::kBadRequest, "the request has no input", {},
                       "set prompt, token_ids or chat");
  }
}

namespace {

v1::Sampling SamplingOf(const v1::GenerateRequest& request) {
  v1::Sampling sampling;
  sampling.set_temperature(request.temperature());
  sampling.set_top_k(request.top_k());
  sampling.set_top_p(request.top_p());
  sampling.set_seed(request.has_seed() ? request.seed() : RandomU64());
  sampling.set_min_p(request.min_p());
  sampling.set_repetition_penalty(request.repetition_penalty());
  sampling.set_presence_penalty(request.presence_penalty());
  sampling.set_frequency_penalty(request.frequency_penalty());
  *sampling.mutable_logit_bias() = request.logit_bias();
  return sampling;
}

}  // namespace

absl::StatusOr<v1::EngineRequest> BuildEngineRequest(const v1::GenerateRequest& request,
                                                     const TextBundle& text) {
  if (request.n() > static_cast<uint32_t>(kChoicesMax)) {
    return MakeError(Reason::kBadRequest,
                     fmt::format("n is {}, at most {}", request.n(), kChoicesMax));
  }
  v1::EngineRequest engine;
  engine.set_request_id(request.request_id());
  engine.set_max_tokens(request.max_tokens() == 0 ? kMaxTokensDefault : request.max_tokens());
  engine.set_priority(request.priority());
  engine.set_no_prefix_cache(request.no_prefix_cache());
  engine.set_want_logprob(request.logprobs());
  engine.set_logprobs(request.top_logprobs());
  engine.set_min_tokens(request.min_tokens());
  engine.set_prompt_logprobs(request.prompt_logprobs());
  *engine.mutable_sampling() = SamplingOf(request);
  if (!request.ignore_eos()) {
    engine.mutable_stop_ids()->Add(text.eos_ids.begin(), text.eos_ids.end());
  }
  engine.mutable_stop_ids()->MergeFrom(request.stop_token_ids());
  OCTAVO_RETURN_IF_ERROR(CheckGeneration(engine));
  if (!request.logprobs()) engine.set_logprobs(0);
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, PromptIds(request, text));
  if (ids.empty()) return MakeError(Reason::kBadRequest, "the prompt has no tokens");
  engine.mutable_prompt()->Add(ids.begin(), ids.end());
  return engine;
}

v1::EngineRequest ChoiceOf(const v1::EngineRequest& engine, uint32_t index) {
  v1::EngineRequest choice = engine;
  choice.mutable_sampling()->set_seed(engine.sampling().seed() + index);
  choice.set_prompt_logprobs(engine.prompt_logprobs() && index == 0);
  choice.set_choice(index);
  return choice;
}

namespace {

// A reply is a text of its own; what follows a prompt continues it.
TextPosition PositionOf(const v1::GenerateRequest& request) {
  const bool reply = request.has_chat() && !request.chat().omit_generation_prompt();
  return reply ? TextPosition::kStart : TextPosition::kContinuation;
}

}  // namespace

Assembler::Assembler(const v1::GenerateRequest& request, const TextBundle& text,
                     StopMatcher matcher)
    : min_tokens_(request.min_tokens()),
      stops_(request.stop().begin(), request.stop().end()),
      detokenizer_(text.tokenizer.get(), request.skip_special_tokens(), PositionOf(request)),
      matcher_(std::move(matcher)) {}

absl::StatusOr<Assembler> Assembler::Create(const v1::GenerateRequest& request,
                                            const TextBundle& text) {
  const std::vector<std::string> stops(request.stop().begin(), request.stop().end());
  OCTAVO_ASSIGN_OR_RETURN(StopMatcher matcher, StopMatcher::Create(stops));
  return Assembler(request, text, std::move(matcher));
}

void Assembler::AddText(const std::string& text, v1::Delta& delta) {
  if (tokens_ <= min_tokens_) {
    delta.mutable_text()->append(text);
    return;
  }
  const StopMatcher::Result result = matcher_.Push(text);
  delta.mutable_text()->append(result.emit);
  if (!result.matched) return;
  reason_ = v1::FINISH_STOP;
  matched_stop_ = stops_[static_cast<size_t>(result.stop_index)];
}

v1::Delta Assembler::Push(const v1::EngineEvent& event) {
  v1::Delta delta;
  if (finished()) return delta;
  cached_tokens_ += event.cached_tokens();
  *delta.mutable_prompt_tokens() = event.prompt();
  const bool stopped_by_id = event.finish() == v1::FINISH_STOP && event.stop_id() >= 0;
  for (int i = 0; i < event.tokens_size() && !finished(); ++i) {
    *delta.add_tokens() = event.tokens(i);
    ++tokens_;
    // The id that ends the text is no part of it.
    if (stopped_by_id && i + 1 == event.tokens_size()) break;
    AddText(detokenizer_.Push(event.tokens(i).id()), delta);
  }
  if (finished() || event.finish() == v1::FINISH_UNSPECIFIED) return delta;
  AddText(detokenizer_.Finish(), delta);
  if (finished()) return delta;
  delta.mutable_text()->append(matcher_.Finish());
  reason_ = event.finish();
  return delta;
}

std::string_view FinishName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_STOP:
      return "stop";
    case v1::FINISH_LENGTH:
      return "length";
    case v1::FINISH_CANCELLED:
      return "cancelled";
    case v1::FINISH_DEADLINE:
      return "deadline";
    default:
      return "error";
  }
}

}  // namespace octavo
