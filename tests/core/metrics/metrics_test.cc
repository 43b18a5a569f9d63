#include "core/metrics/metrics.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "core/metrics/exposer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

std::string HttpGet(int port, const std::string& path) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return "";
  const std::string request = "GET " + path + " HTTP/1.0\r\n\r\n";
  EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  ssize_t count = 0;
  while ((count = read(fd, buffer, sizeof buffer)) > 0) answer.append(buffer, count);
  close(fd);
  return answer;
}

// Touches every metric, so that every one is exposed.
void TouchAll(Metrics& metrics) {
  for (const MetricDef* def : metric::kAllMetrics) {
    const bool one = !def->labels[0].empty();
    const bool two = !def->labels[1].empty();
    const bool three = !def->labels[2].empty();
    auto with_labels = [&](const std::function<void(Metrics::Labels)>& touch) {
      if (three) return touch({"a", "b", "c"});
      if (two) return touch({"a", "b"});
      if (one) return touch({"a"});
      return touch({});
    };
    with_labels([&](Metrics::Labels labels) {
      if (def->type == MetricType::kCounter) metrics.Add(*def, 2, labels);
      if (def->type == MetricType::kGauge) metrics.Set(*def, 2, labels);
      if (def->type == MetricType::kHistogram) metrics.Observe(*def, 2, labels);
    });
  }
}

TEST(Metrics, NamesFollowTheRules) {
  std::set<std::string_view> names;
  for (const MetricDef* def : metric::kAllMetrics) {
    EXPECT_TRUE(names.insert(def->name).second) << def->name;
    EXPECT_TRUE(def->name.starts_with("octavo_")) << def->name;
    EXPECT_TRUE(def->help.ends_with(".")) << def->name;
    EXPECT_EQ(def->name.ends_with("_total"), def->type == MetricType::kCounter) << def->name;
    EXPECT_EQ(def->buckets.empty(), def->type != MetricType::kHistogram) << def->name;
    for (size_t i = 1; i < def->buckets.size(); ++i) {
      EXPECT_LT(def->buckets[i - 1], def->buckets[i]) << def->name;
    }
  }
}

TEST(Metrics, CountsByLabel) {
  Metrics metrics(MetricHome::kCoordinator, "test");
  metrics.Add(metric::kReceipts, 1, {"done"});
  metrics.Add(metric::kReceipts, 2, {"done"});
  metrics.Add(metric::kReceipts, 1, {"stale"});
  EXPECT_EQ(metrics.ValueOf(metric::kReceipts, {"done"}), 3);
  EXPECT_EQ(metrics.ValueOf(metric::kReceipts, {"stale"}), 1);
  metrics.Set(metric::kJobRate, 17);
  EXPECT_EQ(metrics.ValueOf(metric::kJobRate), 17);
  metrics.Shift(metric::kJobRate, 3);
  metrics.Shift(metric::kJobRate, -19);
  EXPECT_EQ(metrics.ValueOf(metric::kJobRate), 1);
}

TEST(Metrics, TakesValuesThatWereCountedElsewhere) {
  Metrics metrics(MetricHome::kWorker, "test");
  std::vector<uint64_t> counts(std::size(metric::kCollectiveBuckets) + 1);
  counts.front() = 3;
  counts.back() = 2;
  metrics.ObserveMany(metric::kCollectiveSeconds, counts, 20.5, {"all_gather"});
  metrics.Observe(metric::kCollectiveSeconds, 0.5, {"all_gather"});
  EXPECT_EQ(metrics.ValueOf(metric::kCollectiveSeconds, {"all_gather"}), 6);
  auto exposer = Exposer::Start(&metrics, "127.0.0.1:0");
  ASSERT_TRUE(exposer.ok()) << exposer.status();
  const std::string answer = HttpGet((*exposer)->port(), "/metrics");
  const std::string series = "octavo_collective_duration_seconds";
  EXPECT_THAT(answer, HasSubstr(series + "_bucket{op=\"all_gather\",le=\"5e-06\"} 3"));
  EXPECT_THAT(answer, HasSubstr(series + "_bucket{op=\"all_gather\",le=\"5\"} 4"));
  EXPECT_THAT(answer, HasSubstr(series + "_bucket{op=\"all_gather\",le=\"+Inf\"} 6"));
  EXPECT_THAT(answer, HasSubstr(series + "_sum{op=\"all_gather\"} 21"));
}

TEST(Metrics, LabelValuesAreBounded) {
  Metrics metrics(MetricHome::kCoordinator, "test");
  for (int i = 0; i < 200; ++i) metrics.Add(metric::kRetries, 1, {std::to_string(i)});
  EXPECT_EQ(metrics.ValueOf(metric::kRetries, {"0"}), 1);
  EXPECT_EQ(metrics.ValueOf(metric::kRetries, {"other"}), 200 - 64);
}

TEST(Metrics, MemoryOfThisProcess) {
  const MemoryUse use = ReadMemoryUse();
  EXPECT_GT(use.resident, 1u << 20);
  EXPECT_GE(use.peak, use.resident);
}

TEST(Exposer, ShowsTheNumbersAndPassesPromtool) {
  Metrics metrics(MetricHome::kBoth, "test");
  TouchAll(metrics);
  auto exposer = Exposer::Start(&metrics, "127.0.0.1:0");
  ASSERT_TRUE(exposer.ok()) << exposer.status();
  ASSERT_GT((*exposer)->port(), 0);
  const std::string answer = HttpGet((*exposer)->port(), "/metrics");
  ASSERT_THAT(answer, HasSubstr("200 OK"));
  EXPECT_THAT(answer, HasSubstr("octavo_build_info{program=\"test\",version=\""));
  EXPECT_THAT(answer, HasSubstr("octavo_resident_memory_peak_bytes "));
  for (const MetricDef* def : metric::kAllMetrics) {
    EXPECT_THAT(answer, HasSubstr("# HELP " + std::string(def->name) + " "));
  }
  std::FILE* promtool = popen("promtool check metrics 2>&1 >/dev/null", "w");
  ASSERT_NE(promtool, nullptr);
  const std::string body = answer.substr(answer.find("\r\n\r\n") + 4);
  std::fwrite(body.data(), 1, body.size(), promtool);
  EXPECT_EQ(pclose(promtool), 0) << body;
}

TEST(Exposer, TakenPortIsATypedError) {
  Metrics metrics(MetricHome::kWorker, "test");
  auto first = Exposer::Start(&metrics, "127.0.0.1:0");
  ASSERT_TRUE(first.ok());
  auto second = Exposer::Start(&metrics, (*first)->address());
  EXPECT_FALSE(second.ok());
  EXPECT_FALSE(Exposer::Start(&metrics, "nonsense").ok());
}

}  // namespace
}  // namespace octavo
