#include "cli/load_run.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <stop_token>
#include <thread>

#include "core/base/error.h"
#include "core/rpc/channel.h"
#include "core/rpc/status.h"
#include "grpcpp/grpcpp.h"
#include "octavo/v1/service/inference.grpc.pb.h"

namespace octavo {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kTimeoutSeconds = 300;
// A client that waits for a request's time looks at the stop signal this often.
constexpr std::chrono::milliseconds kNap{50};

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

v1::GenerateRequest RequestFor(const PlannedRequest& planned, const LoadRun& run) {
  v1::GenerateRequest request;
  request.set_model(run.model);
  request.mutable_token_ids()->mutable_ids()->Assign(planned.prompt.begin(), planned.prompt.end());
  request.set_max_tokens(planned.output_tokens);
  request.set_temperature(static_cast<float>(run.temperature));
  request.set_seed(planned.seed);
  request.set_ignore_eos(true);
  return request;
}

// Sends one request and follows its stream.
void Send(v1::Inference::Stub* stub, const StopSignal& stop, const PlannedRequest& planned,
          const LoadRun& run, Clock::time_point start, RequestRecord* record) {
  grpc::ClientContext context;
  const double seconds = run.timeout_seconds > 0 ? run.timeout_seconds : kTimeoutSeconds;
  SetTimeout(context, std::chrono::milliseconds(static_cast<int64_t>(seconds * 1e3)));
  std::stop_callback cancel(stop.token(), [&context] { context.TryCancel(); });
  auto reader = stub->Generate(&context, RequestFor(planned, run));
  v1::GenerateResponse response;
  double last = 0;
  v1::FinishReason reason = v1::FINISH_UNSPECIFIED;
  while (reader->Read(&response)) {
    if (response.has_finished()) {
      reason = response.finished().reason();
      record->input_tokens = response.finished().usage().prompt_tokens();
      record->output_tokens = response.finished().usage().completion_tokens();
      continue;
    }
    if (response.delta().tokens().empty()) continue;
    const double now = Since(start);
    if (last == 0) {
      record->first = now;
    } else {
      record->gaps.push_back(now - last);
    }
    last = now;
  }
  const absl::Status status = FromGrpc(reader->Finish());
  record->done = Since(start);
  if (!status.ok()) {
    record->failure = std::string(InfoOf(ReasonOf(status)).name);
  } else if (reason != v1::FINISH_STOP && reason != v1::FINISH_LENGTH) {
    record->failure = v1::FinishReason_Name(reason);
  }
}

}  // namespace

std::vector<RequestRecord> RunLoad(const Session& session, const StopSignal& stop,
                                   std::span<const PlannedRequest> plan, const LoadRun& run) {
  std::vector<RequestRecord> records(plan.size());
  std::atomic<size_t> next = 0;
  const Clock::time_point start = Clock::now();
  const auto client = [&] {
    const auto stub = v1::Inference::NewStub(session.channel());
    for (size_t i = next++; i < plan.size(); i = next++) {
      RequestRecord& record = records[i];
      record.due = run.open_loop ? plan[i].at_seconds : Since(start);
      while (!stop.requested() && Since(start) < record.due) {
        const auto left = std::chrono::duration<double>(record.due - Since(start));
        std::this_thread::sleep_for(std::min<Clock::duration>(
            kNap, std::chrono::duration_cast<Clock::duration>(left) + Clock::duration(1)));
      }
      Send(stub.get(), stop, plan[i], run, start, &record);
    }
  };
  std::vector<std::jthread> threads;
  const size_t count = std::min<size_t>(run.clients, plan.size());
  for (size_t i = 0; i < count; ++i) threads.emplace_back(client);
  threads.clear();
  return records;
}

}  // namespace octavo
