#include "cli/load_http.h"

#include <curl/curl.h>

#include <memory>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace octavo {
namespace {

constexpr size_t kLineBytesMax = 1 << 20;
constexpr std::string_view kData = "data:";

// One request's stream, as libcurl's callbacks see it.
struct Stream {
  const StopSignal* stop;
  const LoadClock* clock;
  RequestRecord* record;
  CURL* connection;
  CompletionEvents events = {};
  absl::Status status = absl::OkStatus();
};

size_t OnBytes(const char* data, size_t /*one*/, size_t count, void* context) {
  Stream& stream = *static_cast<Stream*>(context);
  long code = 0;
  curl_easy_getinfo(stream.connection, CURLINFO_RESPONSE_CODE, &code);
  if (code != 200) return count;  // an error's text
  const absl::StatusOr<bool> tokens = stream.events.Take(std::string_view(data, count));
  if (!tokens.ok()) {
    stream.status = tokens.status();
    return 0;  // ends the transfer
  }
  if (*tokens) NoteArrival(*stream.clock, stream.record);
  return count;
}

int OnProgress(void* context, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return static_cast<Stream*>(context)->stop->requested() ? 1 : 0;
}

std::string BodyFor(const PlannedRequest& planned, const LoadTarget& target) {
  nlohmann::json body = {{"prompt", planned.prompt},
                         {"max_tokens", planned.output_tokens},
                         {"temperature", target.temperature},
                         {"seed", planned.seed & INT32_MAX},
                         {"ignore_eos", true},
                         {"stream", true},
                         {"stream_options", {{"include_usage", true}}}};
  if (!target.model.empty()) body["model"] = target.model;
  return body.dump();
}

std::string FailureOf(CURLcode code, const Stream& stream) {
  if (code == CURLE_OPERATION_TIMEDOUT) return std::string(InfoOf(Reason::kDeadline).name);
  if (code == CURLE_ABORTED_BY_CALLBACK) return std::string(InfoOf(Reason::kCancelled).name);
  if (!stream.status.ok()) return std::string(InfoOf(ReasonOf(stream.status)).name);
  if (code != CURLE_OK) return std::string(InfoOf(Reason::kUnreachable).name);
  long status = 0;
  curl_easy_getinfo(stream.connection, CURLINFO_RESPONSE_CODE, &status);
  if (status != 200) return fmt::format("HTTP {}", status);
  return stream.events.done() ? "" : std::string(InfoOf(Reason::kBadData).name);
}

void Send(CURL* connection, const StopSignal& stop, const LoadTarget& target,
          const PlannedRequest& planned, const LoadClock& clock, RequestRecord* record) {
  Stream stream{.stop = &stop, .clock = &clock, .record = record, .connection = connection};
  const std::string body = BodyFor(planned, target);
  curl_easy_setopt(connection, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
  curl_easy_setopt(connection, CURLOPT_POSTFIELDS, body.data());
  curl_easy_setopt(connection, CURLOPT_WRITEDATA, &stream);
  curl_easy_setopt(connection, CURLOPT_XFERINFODATA, &stream);
  record->failure = FailureOf(curl_easy_perform(connection), stream);
  record->input_tokens = stream.events.input_tokens();
  record->output_tokens = stream.events.output_tokens();
}

}  // namespace

absl::StatusOr<bool> CompletionEvents::Take(std::string_view piece) {
  bool tokens = false;
  while (!piece.empty()) {
    const size_t end = piece.find('\n');
    line_ += piece.substr(0, end);
    if (line_.size() > kLineBytesMax) return MakeError(Reason::kBadData, "an endless line");
    if (end == std::string_view::npos) break;
    piece.remove_prefix(end + 1);
    OCTAVO_ASSIGN_OR_RETURN(const bool some, TakeLine(std::exchange(line_, {})));
    tokens = tokens || some;
  }
  return tokens;
}

absl::StatusOr<bool> CompletionEvents::TakeLine(std::string_view line) {
  if (!line.starts_with(kData)) return false;  // a comment, an empty line, another field
  line.remove_prefix(kData.size());
  while (line.starts_with(' ')) line.remove_prefix(1);
  if (line.starts_with("[DONE]")) {
    done_ = true;
    return false;
  }
  const auto event = nlohmann::json::parse(line, nullptr, false);
  if (!event.is_object()) return MakeError(Reason::kBadData, "an event that is not a JSON object");
  if (const auto usage = event.find("usage"); usage != event.end() && usage->is_object()) {
    usage_ = true;
    input_tokens_ = usage->value("prompt_tokens", 0u);
    output_tokens_ = usage->value("completion_tokens", 0u);
  }
  const auto choices = event.find("choices");
  if (choices == event.end() || !choices->is_array() || choices->empty()) return false;
  const nlohmann::json& choice = choices->front();
  if (!choice.is_object()) return MakeError(Reason::kBadData, "a choice that is not an object");
  const auto finish = choice.find("finish_reason");
  const bool last = finish != choice.end() && finish->is_string();
  done_ = done_ || last;
  // An event without text before the end is a token that is not whole UTF-8 yet.
  const auto text = choice.find("text");
  const bool has_text =
      text != choice.end() && text->is_string() && !text->get_ref<const std::string&>().empty();
  if (last && !has_text) return false;
  ++events_;
  return true;
}

LoadSender HttpSender(const std::string& url, const StopSignal& stop, const LoadTarget& target) {
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
  const std::shared_ptr<curl_slist> headers(
      curl_slist_append(nullptr, "Content-Type: application/json"), curl_slist_free_all);
  const std::shared_ptr<CURL> connection(curl_easy_init(), curl_easy_cleanup);
  OCTAVO_CHECK(started == CURLE_OK && connection != nullptr && headers != nullptr);
  curl_easy_setopt(connection.get(), CURLOPT_URL, (url + "/v1/completions").c_str());
  curl_easy_setopt(connection.get(), CURLOPT_PROTOCOLS_STR, "http");
  curl_easy_setopt(connection.get(), CURLOPT_PROXY, "");
  curl_easy_setopt(connection.get(), CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(connection.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(connection.get(), CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(connection.get(), CURLOPT_TIMEOUT_MS,
                   static_cast<long>(target.timeout_seconds * 1e3));
  curl_easy_setopt(connection.get(), CURLOPT_WRITEFUNCTION, OnBytes);
  curl_easy_setopt(connection.get(), CURLOPT_XFERINFOFUNCTION, OnProgress);
  return [headers, connection, &stop, target](const PlannedRequest& planned, const LoadClock& clock,
                                              RequestRecord* record) {
    Send(connection.get(), stop, target, planned, clock, record);
  };
}

}  // namespace octavo
