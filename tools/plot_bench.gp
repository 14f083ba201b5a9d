# Draws a sweep of clmla bench as two SVG pictures. Needs gnuplot 5.2 or later
# (Debian: gnuplot-nox; tools/deps.sh plot).
#
#   clmla bench --sweep --model lite --heads 16 --format csv >sweep.csv
#   gnuplot -e "csv='sweep.csv'" tools/plot_bench.gp
#
# writes sweep-context.svg (tokens/s over context, one line per batch and head count) and
# sweep-roofline.svg (GFLOP/s over FLOP per byte: the measured ceilings, and each cell's point).
#
# Variables, given with -e before the script's name:
#   csv    the sweep's CSV; needed
#   out    what the pictures' names begin with; default: csv's name without ".csv"
#   title  of both pictures; default: csv's name
if (!exists("csv")) {
    print "plot_bench.gp: give the CSV: gnuplot -e \"csv='sweep.csv'\" tools/plot_bench.gp"
    exit status 2
}
if (!exists("out")) out = (csv[strlen(csv) - 3:*] eq ".csv") ? csv[1:strlen(csv) - 4] : csv
if (!exists("title")) title = csv

set datafile separator comma
set datafile missing ""
set terminal svg size 960,560 font "sans-serif,14" background "white"
set style line 100 linecolor rgb "#d8d8d8" linewidth 1
set grid xtics ytics linestyle 100
set border 3
set tics nomirror
set logscale xy

# What the sweep went over, in the CSV's order (the statistics of a column fail when it is absent).
stats csv using (column("device_read_gb_per_s")) name "read" nooutput
stats csv using (column("device_fma_gflop_per_s")) name "fma" nooutput
stats csv using (column("flop_per_byte")) name "intensity" nooutput
stats csv using (column("gflop_per_s")) name "reached" nooutput
stats csv using (column("tokens_per_s")) name "tokens" nooutput
stats csv using (column("context")) name "context" nooutput
series = ""
last = ""
note(heads, batch) = (heads eq "heads" || last eq sprintf("%s/%s", heads, batch)) ? 0 : \
    (last = sprintf("%s/%s", heads, batch), series = series . " " . last, 0)
stats csv using (note(strcol("heads"), strcol("batch"))) name "series" nooutput
num_series = words(series)
heads(i) = word(series, i)[1:strstrt(word(series, i), "/") - 1]
batch(i) = word(series, i)[strstrt(word(series, i), "/") + 1:*]
label(i) = sprintf("%s heads, batch %s", heads(i), batch(i))
mine(i, value) = (strcol("heads") eq heads(i) && strcol("batch") eq batch(i)) ? value : NaN

# Colours that differ for colour-blind eyes, too (Okabe and Ito); shapes tell further series apart.
colours = "#0072B2 #E69F00 #009E73 #D55E00 #CC79A7 #56B4E9 #8B7500 #000000"
colour(i) = word(colours, 1 + (i - 1) % words(colours))
shapes = "7 5 9 11 13 6 4 8 10 12"
shape(i) = int(word(shapes, 1 + (i - 1) % words(shapes)))

# ---- throughput over context ----------------------------------------------------------------------
set output out . "-context.svg"
set title title . ": batched decode throughput" noenhanced
set xlabel "context (keys a sequence)"
set ylabel "tokens/s"
set key outside right top vertical Left reverse samplen 2
set logscale x 2
set xtics ("1" 1, "64" 64, "256" 256, "1k" 1024, "2k" 2048, "4k" 4096, "8k" 8192, "16k" 16384, \
    "32k" 32768, "64k" 65536, "128k" 131072, "256k" 262144, "1M" 1048576)
set xrange [context_min / 1.2:context_max * 1.2]
set yrange [10 ** floor(log10(tokens_min)):10 ** ceil(log10(tokens_max))]
set format y "%g"
plot for [i = 1:num_series] csv using (mine(i, column("context"))):(column("tokens_per_s")) \
    with linespoints linewidth 2 pointsize 0.9 linecolor rgb colour(i) pointtype shape(i) \
    title label(i)

# ---- roofline -------------------------------------------------------------------------------------
read = read_mean
fma = fma_mean
ridge = fma / read
least = intensity_min < ridge ? intensity_min : ridge
most = intensity_max > ridge ? intensity_max : ridge
low = reached_min < read * least / 2 ? reached_min : read * least / 2
high = reached_max > fma ? reached_max : fma
roof(x) = x < ridge ? read * x : fma

set output out . "-roofline.svg"
set title sprintf("%s: roofline\nmeasured: %.1f GB/s read, %.1f GFLOP/s f32 multiply-adds", title, \
    read, fma) noenhanced
set xlabel "FLOP per byte that the layer needs"
set ylabel "GFLOP/s"
unset xtics
unset logscale x
set logscale x 10
set xtics nomirror 10
set mxtics 10
set format x "%g"
set ytics (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 1e4, 2e4, 5e4, 1e5, \
    2e5, 5e5, 1e6)
set xrange [least / 2:most * 2]
set yrange [low / 1.5:high * 1.5]
set samples 400
plot roof(x) with lines linewidth 3 linecolor rgb "#404040" title "measured ceilings", \
    for [i = 1:num_series] csv using (mine(i, column("flop_per_byte"))):(column("gflop_per_s")) \
    with points pointsize 1.1 linewidth 2 linecolor rgb colour(i) pointtype shape(i) title label(i)
set output
