plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

// `group:name:version` of any model, as the build printed it: -Pmodel=com.example:reviews:1.2
val coordinates = providers.gradleProperty("model").get()
val model = coordinates.split(":")[1]

android {
    buildFeatures { buildConfig = true }
    namespace = "com.example.ask"
    compileSdk = 35
    defaultConfig {
        applicationId = "com.example.ask"
        minSdk = 23
        targetSdk = 35
        buildConfigField("String", "MODEL", "\"$model\"")
    }
    buildTypes {
        release {
            isMinifyEnabled = true // the archive brings the rules that it needs
            proguardFiles(getDefaultProguardFile("proguard-android-optimize.txt"))
        }
    }
    // The benchmark program is no library: the system can only start it from a file of its own.
    packaging { jniLibs { useLegacyPackaging = file("src/main/jniLibs").exists() } }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }
    kotlinOptions { jvmTarget = "1.8" }
}

dependencies {
    implementation(coordinates)
}
