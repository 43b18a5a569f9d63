#include "coordinator/report/svg.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "fmt/format.h"

namespace octavo {
namespace {

constexpr double kLabelWidth = 130;
constexpr double kPlotWidth = 760;
constexpr double kTopHeight = 6;
constexpr double kAxisHeight = 34;
constexpr int kTicksMax = 12;

std::string Begin(std::string_view name, double width, double height) {
  return fmt::format(
      "<svg viewBox=\"0 0 {:.0f} {:.0f}\" style=\"max-width:{:.0f}px\" role=\"img\" "
      "aria-label=\"{}\">\n",
      width, height, width, HtmlText(name));
}

std::string Label(double x, double y, std::string_view anchor, std::string_view text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor,
                     HtmlText(text));
}

// Columns between two labelled ones: 1, 2, 5, 10 ...
int TickStep(int columns) {
  for (int power = 1;; power *= 10) {
    for (const int step : {1, 2, 5}) {
      if (columns / (step * power) <= kTicksMax) return step * power;
    }
  }
}

// Numbers under the columns, and what they count.
std::string ColumnAxis(int columns, double left, double step, double y, std::string_view name) {
  std::string out;
  const int ticks = TickStep(columns);
  for (int column = 0; column < columns; column += ticks) {
    out += Label(left + (column + 0.5) * step, y + 14, "middle", fmt::format("{}", column));
  }
  return out + Label(left + columns * step / 2, y + 29, "middle", name);
}

struct Extent {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void Add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
};

// log2, linear between powers of two. `value` is above 0.
double Octaves(double value) {
  int exponent = 0;
  const double fraction = std::frexp(value, &exponent);  // exact
  return exponent - 1 + (2 * fraction - 1);
}

std::string Strength(double value, const Extent& extent) {
  const double share =
      extent.high > extent.low ? (value - extent.low) / (extent.high - extent.low) : 1;
  return fmt::format("{:.3f}", 0.06 + 0.94 * share);
}

std::string Legend(const Heatmap& map, const Extent& extent) {
  return fmt::format(
      "<p class=\"legend\"><span class=\"swatch\" style=\"opacity:{}\"></span> {} &#8230; "
      "<span class=\"swatch\" style=\"opacity:1\"></span> {}</p>\n",
      Strength(extent.low, extent), HtmlText(map.format(extent.low)),
      HtmlText(map.format(extent.high)));
}

}  // namespace

std::string HtmlText(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string ShortNumber(double value) { return fmt::format("{:.4g}", value); }

std::string HeatmapSvg(const Heatmap& map) {
  Extent extent;
  size_t columns = 0;
  for (const auto& row : map.values) {
    columns = std::max(columns, row.size());
    for (const auto& value : row) {
      if (value.has_value()) extent.Add(*value);
    }
  }
  if (extent.empty()) return "";
  const double step = std::clamp(kPlotWidth / static_cast<double>(columns), 4.0, 24.0);
  const double height = map.rows.size() > 16 ? 12 : 20;
  const double bottom = kTopHeight + height * static_cast<double>(map.rows.size());
  std::string out =
      Begin(map.name, kLabelWidth + step * static_cast<double>(columns) + 10, bottom + kAxisHeight);
  for (size_t row = 0; row < map.rows.size(); ++row) {
    const double y = kTopHeight + height * static_cast<double>(row);
    out += Label(kLabelWidth - 8, y + height / 2 + 4, "end", map.rows[row]);
    for (size_t column = 0; column < map.values[row].size(); ++column) {
      const auto& value = map.values[row][column];
      if (!value.has_value()) continue;
      fmt::format_to(
          std::back_inserter(out),
          "<rect class=\"cell\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" "
          "height=\"{:.1f}\" fill-opacity=\"{}\"><title>{} {}, {} {}: {}</title></rect>\n",
          kLabelWidth + step * static_cast<double>(column), y, step - 1, height - 1,
          Strength(*value, extent), map.column_name, column, map.row_name, HtmlText(map.rows[row]),
          HtmlText(map.format(*value)));
    }
  }
  out += ColumnAxis(static_cast<int>(columns), kLabelWidth, step, bottom, map.column_name);
  return out + "</svg>\n" + Legend(map, extent);
}

std::string RangeSvg(const RangePlot& plot) {
  if (plot.rows.empty()) return "";
  Extent extent;
  for (const RangePlot::Row& row : plot.rows) {
    extent.Add(std::floor(Octaves(row.low)));
    extent.Add(std::ceil(Octaves(row.high)));
  }
  if (extent.low == extent.high) extent.high += 1;
  constexpr double kRowHeight = 22;
  const double width = kPlotWidth - 200;
  const double octave = width / (extent.high - extent.low);
  const auto x_of = [&](double value) {
    return kLabelWidth + (Octaves(value) - extent.low) * octave;
  };
  const double bottom = kTopHeight + kRowHeight * static_cast<double>(plot.rows.size());
  std::string out = Begin(plot.name, kLabelWidth + width + 210, bottom + kAxisHeight - 12);
  const auto low = static_cast<int>(extent.low);
  const auto high = static_cast<int>(extent.high);
  for (int power = low; power <= high; power += TickStep(high - low)) {
    const double x = kLabelWidth + (power - low) * octave;
    fmt::format_to(
        std::back_inserter(out),
        "<line class=\"grid\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", x,
        kTopHeight, x, bottom);
    out += Label(x, bottom + 14, "middle", fmt::format("2^{}", power));
  }
  for (size_t i = 0; i < plot.rows.size(); ++i) {
    const RangePlot::Row& row = plot.rows[i];
    const double y = kTopHeight + kRowHeight * (static_cast<double>(i) + 0.5);
    const std::string range = fmt::format("{} to {}", ShortNumber(row.low), ShortNumber(row.high));
    out += Label(kLabelWidth - 8, y + 4, "end", row.name);
    fmt::format_to(std::back_inserter(out),
                   "<line class=\"bar\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\">"
                   "<title>{}: {}</title></line>\n",
                   x_of(row.low), y, x_of(row.high), y, HtmlText(row.name), range);
    out += Label(kLabelWidth + width + 12, y + 4, "start", range);
  }
  return out + "</svg>\n";
}

std::string LineSvg(const LinePlot& plot) {
  double high = 0;
  for (const auto& value : plot.values) high = std::max(high, value.value_or(0));
  if (high == 0) return "";
  constexpr double kHeight = 90;
  constexpr double kLeft = 70;
  const auto columns = static_cast<int>(plot.values.size());
  const double step = std::clamp(kPlotWidth / 2 / columns, 2.0, 24.0);
  const auto y_of = [&](double value) { return kTopHeight + kHeight * (1 - value / high); };
  const double width = step * columns;
  std::string out = Begin(plot.name, kLeft + width + 10, kTopHeight + kHeight + kAxisHeight);
  for (const double share : {0.0, 0.5, 1.0}) {
    const double y = y_of(share * high);
    fmt::format_to(
        std::back_inserter(out),
        "<line class=\"grid\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", kLeft,
        y, kLeft + width, y);
    out += Label(kLeft - 6, y + 4, "end", ShortNumber(share * high));
  }
  std::string points;
  std::string dots;
  for (int column = 0; column < columns; ++column) {
    const auto& value = plot.values[static_cast<size_t>(column)];
    if (!value.has_value()) continue;
    const double x = kLeft + (column + 0.5) * step;
    fmt::format_to(std::back_inserter(points), "{:.1f},{:.1f} ", x, y_of(*value));
    fmt::format_to(std::back_inserter(dots),
                   "<circle class=\"dot\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\"><title>{} {}: {}"
                   "</title></circle>\n",
                   x, y_of(*value), plot.column_name, column, ShortNumber(*value));
  }
  out += fmt::format("<polyline class=\"line\" points=\"{}\"/>\n", points) + dots;
  out += ColumnAxis(columns, kLeft, step, kTopHeight + kHeight, plot.column_name);
  return out + "</svg>\n";
}

}  // namespace octavo
