#include "worker/service/attach_client.h"

#include <algorithm>
#include <chrono>
#include <stop_token>
#include <thread>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "core/base/mutex.h"
#include "core/metrics/metrics.h"
#include "core/rpc/channel.h"
#include "core/rpc/status.h"
#include "grpcpp/channel.h"
#include "octavo/v1/service/coordinator.grpc.pb.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;
using Steady = std::chrono::steady_clock;
using Stream = grpc::ClientReaderWriterInterface<v1::Report, v1::Directive>;

constexpr milliseconds kBackoffFirst{50};
constexpr milliseconds kBackoffMax{2000};
// From dialing to Welcome.
constexpr milliseconds kWelcomeTimeout{5000};
constexpr int kBeatsPerEcho = 20;

}  // namespace

class AttachClient::Impl {
 public:
  Impl(Options options, Handlers handlers)
      : options_(std::move(options)),
        handlers_(std::move(handlers)),
        stub_(v1::Coordinator::NewStub(MakeChannel(options_.coordinator, options_.token))) {}

  void Start() {
    beats_ = std::jthread([this](const std::stop_token& stop) { BeatLoop(stop); });
    dials_ = std::jthread([this](const std::stop_token& stop) { DialLoop(stop); });
  }

  ~Impl() { Stop(); }

  void Stop() {
    beats_.request_stop();
    dials_.request_stop();
    {
      MutexLock lock(mutex_);
      if (context_ != nullptr) context_->TryCancel();
      changed_.NotifyAll();
    }
    if (beats_.joinable()) beats_.join();
    if (dials_.joinable()) dials_.join();
  }

  void Send(const v1::Report& report) {
    MutexLock writing(write_mutex_);
    if (stream_ != nullptr && leased_) stream_->Write(report);
  }

 private:
  void DialLoop(const std::stop_token& stop) {
    milliseconds backoff = kBackoffFirst;
    while (!stop.stop_requested()) {
      bool welcomed = false;
      const absl::Status status = HoldStream(stop, &welcomed);
      if (stop.stop_requested()) return;
      if (welcomed) {
        handlers_.detached(status);
        backoff = kBackoffFirst;
      }
      if (!status.ok() && ReasonOf(status) == Reason::kUnauthenticated) {
        handlers_.fatal(status);
        return;
      }
      spdlog::info("not attached to {} ({}); dialing again in {} ms", options_.coordinator,
                   std::string(status.message()), backoff.count());
      Sleep(stop, backoff);
      backoff = std::min(backoff * 2, kBackoffMax);
    }
  }

  // One stream from dialing to its end.
  absl::Status HoldStream(const std::stop_token& stop, bool* welcomed) {
    grpc::ClientContext context;
    {
      MutexLock lock(mutex_);
      if (stop.stop_requested()) return absl::OkStatus();
      context_ = &context;
      last_sign_ = Steady::now();
      dialing_ = true;
      slept_ = false;
    }
    std::unique_ptr<Stream> stream = stub_->Attach(&context);
    v1::Report hello;
    *hello.mutable_hello() = options_.hello;
    stream->Write(hello);
    ReadLoop(*stream, welcomed);
    {
      MutexLock writing(write_mutex_);
      stream_ = nullptr;
      leased_ = false;
    }
    bool slept = false;
    {
      MutexLock lock(mutex_);
      context_ = nullptr;
      slept = slept_;
    }
    const absl::Status status = FromGrpc(stream->Finish());
    return slept ? MakeError(Reason::kFenced, "this worker slept through its lease") : status;
  }

  void ReadLoop(Stream& stream, bool* welcomed) {
    v1::Directive directive;
    while (stream.Read(&directive)) {
      if (directive.has_echo()) {
        if (handlers_.echoed) {
          handlers_.echoed(Steady::now().time_since_epoch() -
                           std::chrono::nanoseconds(directive.echo().sent_nanos()));
        }
        continue;
      }
      if (!directive.has_welcome()) {
        handlers_.directive(std::move(directive));
        continue;
      }
      {
        MutexLock lock(mutex_);
        dialing_ = false;
        last_sign_ = Steady::now();
        beat_ = milliseconds(std::max(1u, directive.welcome().beat_ms()));
        lease_ = milliseconds(std::max(1u, directive.welcome().lease_ms()));
        changed_.NotifyAll();
      }
      {
        MutexLock writing(write_mutex_);
        stream_ = &stream;
        leased_ = true;
      }
      {
        MutexLock lock(mutex_);
        beats_since_welcome_ = 0;
      }
      *welcomed = true;
      handlers_.attached();
    }
  }

  void BeatLoop(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      milliseconds beat;
      bool wants_echo = false;
      {
        MutexLock lock(mutex_);
        beat = beat_;
        wants_echo = beats_since_welcome_++ % kBeatsPerEcho == 0;
        Watch();
      }
      v1::Report report;
      report.mutable_beat()->set_rss_peak_bytes(ReadMemoryUse().peak);
      if (wants_echo) {
        const std::chrono::nanoseconds now = Steady::now().time_since_epoch();
        report.mutable_beat()->set_sent_nanos(static_cast<uint64_t>(now.count()));
      }
      Send(report);
      Sleep(stop, beat);
    }
  }

  // Gives up a stream on which no Welcome comes, and a lease that this process slept through (it
  // was stopped, or starved): the coordinator has given its tasks to others by now.
  // REQUIRES mutex_ held.
  void Watch() {
    const auto now = Steady::now();
    const auto silence = now - last_sign_;
    if (!dialing_) last_sign_ = now;
    if (context_ == nullptr || silence <= (dialing_ ? kWelcomeTimeout : lease_)) return;
    spdlog::warn("{} after {} ms of silence",
                 dialing_ ? "no welcome from the coordinator" : "this worker lost its lease",
                 std::chrono::duration_cast<milliseconds>(silence).count());
    slept_ = !dialing_;
    context_->TryCancel();
  }

  void Sleep(const std::stop_token& stop, milliseconds time) {
    const auto until = Steady::now() + time;
    MutexLock lock(mutex_);
    while (!stop.stop_requested() && Steady::now() < until) {
      changed_.WaitFor(mutex_, until - Steady::now());
    }
  }

  const Options options_;
  const Handlers handlers_;
  const std::unique_ptr<v1::Coordinator::StubInterface> stub_;

  Mutex mutex_;
  CondVar changed_;
  grpc::ClientContext* context_ OCTAVO_GUARDED_BY(mutex_) = nullptr;  // of the stream held now
  bool dialing_ OCTAVO_GUARDED_BY(mutex_) = false;                    // no Welcome yet
  bool slept_ OCTAVO_GUARDED_BY(mutex_) = false;                      // through the lease
  Steady::time_point last_sign_ OCTAVO_GUARDED_BY(mutex_);            // of being awake
  milliseconds beat_ OCTAVO_GUARDED_BY(mutex_){kBeatMs};
  milliseconds lease_ OCTAVO_GUARDED_BY(mutex_){kLeaseMs};
  uint32_t beats_since_welcome_ OCTAVO_GUARDED_BY(mutex_) = 0;

  Mutex write_mutex_;  // gRPC takes one writer at a time
  Stream* stream_ OCTAVO_GUARDED_BY(write_mutex_) = nullptr;
  bool leased_ OCTAVO_GUARDED_BY(write_mutex_) = false;

  std::jthread beats_;
  std::jthread dials_;
};

AttachClient::AttachClient(Options options, Handlers handlers)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(handlers))) {}
AttachClient::~AttachClient() = default;

void AttachClient::Start() { impl_->Start(); }

void AttachClient::Stop() { impl_->Stop(); }

void AttachClient::Send(const v1::Report& report) { impl_->Send(report); }

}  // namespace octavo
