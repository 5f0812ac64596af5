"""The job as it is usually written in PySpark, to measure etl.py against: python plain.py INPUT OUTPUT

INPUT holds song_data/ and log_data/ (no zips). It has the habits that are common to such jobs, on purpose: globs over
every file, schemas inferred, the catalogue read again where it is needed again, Python UDFs for the time in the
machine's zone, dropDuplicates without an order, ids that change from run to run, one Parquet file a song, and tables
overwritten in place. What it doesn't do is lose or multiply plays: its row counts are those of etl.py.
"""

import sys
from datetime import datetime

from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import IntegerType, TimestampType


def process_song_data(spark, source, output):
    songs = spark.read.json(f"{source}/song_data/*/*/*/*.json")

    songs_table = songs.select("song_id", "title", "artist_id", "year", "duration").dropDuplicates(["song_id"])
    songs_table.write.mode("overwrite").partitionBy("year", "artist_id").parquet(f"{output}/songs")

    artists_table = songs.select(
        "artist_id",
        F.col("artist_name").alias("name"),
        F.col("artist_location").alias("location"),
        F.col("artist_latitude").alias("latitude"),
        F.col("artist_longitude").alias("longitude"),
    ).dropDuplicates(["artist_id"])
    artists_table.write.mode("overwrite").parquet(f"{output}/artists")


def process_log_data(spark, source, output):
    events = spark.read.json(f"{source}/log_data/*/*/*.json")
    plays = events.filter(events.page == "NextSong")

    users_table = plays.select(
        F.col("userId").cast("bigint").alias("user_id"),
        F.col("firstName").alias("first_name"),
        F.col("lastName").alias("last_name"),
        "gender",
        "level",
    ).dropDuplicates(["user_id"])
    users_table.write.mode("overwrite").parquet(f"{output}/users")

    get_start_time = F.udf(lambda ts: datetime.fromtimestamp(ts / 1000.0), TimestampType())
    get_weekday = F.udf(lambda moment: moment.isoweekday(), IntegerType())
    plays = plays.withColumn("start_time", get_start_time("ts"))

    time_table = (
        plays.select("start_time")
        .dropDuplicates()
        .withColumn("hour", F.hour("start_time"))
        .withColumn("day", F.dayofmonth("start_time"))
        .withColumn("week", F.weekofyear("start_time"))
        .withColumn("month", F.month("start_time"))
        .withColumn("year", F.year("start_time"))
        .withColumn("weekday", get_weekday("start_time"))
    )
    time_table.write.mode("overwrite").partitionBy("year", "month").parquet(f"{output}/time")

    songs = spark.read.json(f"{source}/song_data/*/*/*/*.json").select("song_id", "artist_id", "title", "artist_name")
    same_name = (plays.song == songs.title) & (plays.artist == songs.artist_name)
    songplays_table = (
        plays.join(songs, same_name, "left")
        .dropDuplicates(["userId", "sessionId", "itemInSession", "ts"])
        .withColumn("songplay_id", F.monotonically_increasing_id())
        .select(
            "songplay_id",
            "start_time",
            F.col("userId").cast("bigint").alias("user_id"),
            "level",
            "song_id",
            "artist_id",
            F.col("sessionId").alias("session_id"),
            "location",
            F.col("userAgent").alias("user_agent"),
            F.year("start_time").alias("year"),
            F.month("start_time").alias("month"),
        )
    )
    songplays_table.write.mode("overwrite").partitionBy("year", "month").parquet(f"{output}/songplays")


def main():
    source, output = sys.argv[1:3]
    spark = SparkSession.builder.master("local[*]").appName("plain").getOrCreate()
    process_song_data(spark, source, output)
    process_log_data(spark, source, output)
    spark.stop()


if __name__ == "__main__":
    main()
