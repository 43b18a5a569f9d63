#include "cli/load_run.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "core/base/error.h"

namespace octavo {
namespace {

// A client that waits for a request's time looks at the stop signal this often.
constexpr double kNapSeconds = 0.5;

}  // namespace

void NoteArrival(const LoadClock& clock, RequestRecord* record) {
  const double now = clock.now();
  if (record->first == 0) {
    record->first = now;
  } else {
    record->gaps.push_back(now - record->last);
  }
  record->last = now;
}

std::vector<RequestRecord> RunLoad(std::span<const PlannedRequest> plan, const LoadRun& run,
                                   const StopSignal& stop) {
  std::vector<RequestRecord> records(plan.size());
  std::atomic<size_t> next = 0;
  const LoadClock clock;
  const auto client = [&] {
    const LoadSender send = run.connect();
    for (size_t i = next++; i < plan.size(); i = next++) {
      RequestRecord& record = records[i];
      record.due = run.open_loop ? plan[i].at_seconds : clock.now();
      while (!stop.requested() && clock.now() < record.due) {
        std::this_thread::sleep_for(
            std::chrono::duration<double>(std::min(kNapSeconds, record.due - clock.now())));
      }
      send(plan[i], clock, &record);
      record.done = clock.now();
      if (stop.requested()) record.failure = InfoOf(Reason::kCancelled).name;
    }
  };
  std::vector<std::jthread> threads;
  const size_t count = std::min<size_t>(run.clients, plan.size());
  for (size_t i = 0; i < count; ++i) threads.emplace_back(client);
  threads.clear();
  return records;
}

}  // namespace octavo
